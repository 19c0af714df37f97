"""Layers whose weights stay as they were drawn while parameters beside them learn how each weight is used."""

from .batch_norm import AffineFreeBatchNorm
from .biprop import Biprop
from .edge_popup import EdgePopup
from .layer import LatentConv, LatentConverter, merge_latents_
from .ranking import highest
from .signs import LatentSigns

__all__ = [
    'AffineFreeBatchNorm',
    'Biprop',
    'EdgePopup',
    'LatentConv',
    'LatentConverter',
    'LatentSigns',
    'highest',
    'merge_latents_',
]
