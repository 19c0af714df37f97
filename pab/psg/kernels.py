"""The passes over activations that PSG adds to a step."""

import torch
from torch import Tensor

from . import quantize as q


def encode_input(x: Tensor, bits: int, signed: bool) -> tuple[Tensor, Tensor]:
    """The code of a layer's input (N, ...), in the layout of ``x``, and its scale ()."""
    scale = q.input_scale(x if x.dim() > 1 else x[None])
    return q.encode(x, scale, bits, signed), scale


def decode_input(codes: Tensor, bits: int, signed: bool, dtype: torch.dtype) -> Tensor:
    """:func:`pab.psg.quantize.decode`, in the layout of ``codes``."""
    return q.decode(codes, bits, signed, dtype)


def quantize_gradient(grad: Tensor, bits: int) -> Tensor:
    """Q of an output gradient, signed, with the maximum of the whole tensor as its scale."""
    return q.quantize(grad, bits, True, q.tensor_scale(grad))
