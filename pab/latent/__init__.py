"""Layers with parameters beside their weights, which learn how each weight is used."""

from .batch_norm import AffineFreeBatchNorm
from .biprop import Biprop
from .edge_popup import EdgePopup
from .layer import LatentConv, LatentConverter, merge_latents_
from .ranking import highest
from .sign_in import SignIn, SignInConv
from .signs import LatentSigns

__all__ = [
    'AffineFreeBatchNorm',
    'Biprop',
    'EdgePopup',
    'LatentConv',
    'LatentConverter',
    'LatentSigns',
    'SignIn',
    'SignInConv',
    'highest',
    'merge_latents_',
]
