"""Predictive sign gradient: the weight gradient of a layer from a quantised input and a quantised output gradient."""

from ..contracts import exact_gradients
from .layers import PSG, ByteMaskReLU, PSGConv2d, PSGLayer, PSGLinear, convert_psg_
from .settings import PSGConfig

__all__ = [
    'PSG',
    'ByteMaskReLU',
    'PSGConfig',
    'PSGConv2d',
    'PSGLayer',
    'PSGLinear',
    'convert_psg_',
    'exact_gradients',
]
