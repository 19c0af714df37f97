"""Layers with parameters beside their weights, which learn how each weight is used.

===========  ==========================================================================
layer        the base of all of them, and the way back to plain layers
signs        latent signs: w sign(t), and variants that also prune
edge_popup   a score for each weight; the weights with the highest scores are used
ranking      the choice of the highest scores
biprop       the same, with weights of one magnitude
sign_in      a product of two trained parameters in the place of each weight
batch_norm   BatchNorm without scale and shift, as edge-popup and biprop have it
===========  ==========================================================================
"""

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
