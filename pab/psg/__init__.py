"""Predictive sign gradient: the weight gradient of a layer from a quantised input and a quantised output gradient."""

from ..compiled import is_compiled, use_compiled
from ..contracts import exact_gradients
from .config import PSGConfig
from .convert import PSG, convert_psg_
from .layers import ByteMaskReLU, PSGConv2d, PSGLayer, PSGLinear

__all__ = [
    'PSG',
    'ByteMaskReLU',
    'PSGConfig',
    'PSGConv2d',
    'PSGLayer',
    'PSGLinear',
    'convert_psg_',
    'exact_gradients',
    'is_compiled',
    'use_compiled',
]
