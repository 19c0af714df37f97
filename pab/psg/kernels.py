"""The passes over activations that PSG adds to a step, each a single fused loop where there is a compiler.

A pass is applied to the flat storage of a tensor: compiled by ``torch.compile`` (once for all shapes) or, with the same
numbers bit for bit, operation by operation. torch's own reductions are as fast as a compiled loop.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ..compiled import run_compiled
from . import quantize as q

SMALLEST_COMPILED = 1 << 18  # entries; below, a pass costs less than it takes to repay a compilation


def fused(function: Callable) -> Callable:
    """``function(x, *tensors, *constants)``, entry by entry: one loop over the storage of ``x`` if that is large.

    The tensors are scales of no dimension, or of the shape of ``x``; what is returned, a tensor or a tuple of them, has
    the layout of ``x``.
    """

    @functools.wraps(function)
    def run(x: Tensor, *arguments):
        if x.numel() < SMALLEST_COMPILED:
            return function(x, *arguments)
        # one dimension, so that neither shape nor memory format asks for a kernel of its own
        channels_last = x.dim() == 4 and not x.is_contiguous()
        tensors = [x, *(t for t in arguments if isinstance(t, Tensor))]
        tensors = [t.permute(0, 2, 3, 1) if channels_last and t.dim() else t for t in tensors]
        shape, constants = tensors[0].shape, arguments[len(tensors) - 1 :]
        # views, unless x is strided otherwise
        out = run_compiled(function, [t.reshape(-1) if t.dim() else t for t in tensors], constants)
        if out is None:
            return function(x, *arguments)

        def shaped(t: Tensor) -> Tensor:
            return t.view(shape).permute(0, 3, 1, 2) if channels_last else t.view(shape)

        return tuple(map(shaped, out)) if isinstance(out, tuple) else shaped(out)

    return run


encode_input = fused(q.encode)
decode_input = fused(q.decode)


def quantize_gradient(grad: Tensor, bits: int) -> Tensor:
    """Q of an output gradient, signed, with the maximum of the whole tensor as its scale."""
    return _quantize_signed(grad, q.tensor_scale(grad), bits)


@fused
def _quantize_signed(grad: Tensor, scale: Tensor, bits: int) -> Tensor:
    return q.quantize(grad, bits, -scale, scale)


def _positive(x: Tensor) -> Tensor:
    # by way of floats: a compiled loop that stores comparisons works entry by entry, 40 times slower
    return torch.where(x <= 0, 0.0, 1.0).to(torch.uint8)


positive = fused(_positive)
"""1 where the gradient of a ReLU with the output ``x`` passes (uint8)."""


@fused
def relu_with_mask(x: Tensor) -> tuple[Tensor, Tensor]:
    """relu(x), and 1 where its gradient passes (uint8); a NaN passes, as with torch's."""
    return x.relu(), _positive(x)


@fused
def pass_where(grad: Tensor, passes: Tensor) -> Tensor:
    """``grad`` where ``passes`` is 1, else 0."""
    return torch.where(passes.to(q.working_dtype(grad.dtype)) == 0, 0, grad)
