"""The passes over activations that PSG adds to a step, each a single fused loop where there is a compiler.

A pass is applied to the flat storage of a tensor: compiled by ``torch.compile`` (once for all shapes) or, with the same
numbers bit for bit, operation by operation. torch's own reductions are as fast as a compiled loop.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..compiled import run_compiled
from . import quantize as q

SMALLEST_COMPILED = 1 << 18  # entries; below, a pass costs less than it takes to repay a compilation


def encode_input(x: Tensor, low: Tensor, scale: Tensor, bits: int) -> Tensor:
    """:func:`pab.psg.quantize.encode`, in the layout of ``x``."""
    return _run(q.encode, (bits,), x, low, scale)


def decode_input(codes: Tensor, low: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """:func:`pab.psg.quantize.decode`, in the layout of ``codes``."""
    return _run(q.decode, (bits, dtype), codes, low)


def quantize_gradient(grad: Tensor, bits: int) -> Tensor:
    """Q of an output gradient, signed, with the maximum of the whole tensor as its scale."""
    return _run(_quantize_signed, (bits,), grad, q.tensor_scale(grad))


def relu_with_mask(x: Tensor) -> tuple[Tensor, Tensor]:
    """relu(x), and 1 where its gradient passes (uint8), both in the layout of ``x``; a NaN passes, as with torch's."""
    return _run(_relu_with_mask, (), x)


def positive(x: Tensor) -> Tensor:
    """1 where the gradient of a ReLU with the output ``x`` passes (uint8), in the layout of ``x``."""
    return _run(_positive, (), x)


def pass_where(grad: Tensor, passes: Tensor) -> Tensor:
    """``grad`` where ``passes`` is 1, else 0, in the layout of ``grad``."""
    return _run(_pass_where, (), grad, passes)


def _relu_with_mask(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.relu(), _positive(x)


def _positive(x: Tensor) -> Tensor:
    # by way of floats: a compiled loop that stores comparisons works entry by entry, 40 times slower
    return torch.where(x <= 0, 0.0, 1.0).to(torch.uint8)


def _pass_where(grad: Tensor, passes: Tensor) -> Tensor:
    return torch.where(passes.to(q.working_dtype(grad.dtype)) == 0, 0, grad)


def _quantize_signed(grad: Tensor, scale: Tensor, bits: int) -> Tensor:
    return q.quantize(grad, bits, -scale, scale)


def _run(function: Callable, constants: tuple, x: Tensor, *others: Tensor):
    """``function(x, *others, *constants)``, entry by entry: one loop over the storage of ``x`` if that is large.

    ``others`` are scales of no dimension, or tensors of the shape of ``x``; the result is a tensor or a tuple of them.
    """
    if x.numel() < SMALLEST_COMPILED:
        return function(x, *others, *constants)
    # one dimension, so that neither shape nor memory format asks for a kernel of its own
    channels_last = x.dim() == 4 and not x.is_contiguous()
    tensors = [t.permute(0, 2, 3, 1) if channels_last and t.dim() else t for t in (x, *others)]
    shape = tensors[0].shape
    # views, unless x is strided otherwise
    out = run_compiled(function, [t.reshape(-1) if t.dim() else t for t in tensors], constants)
    if out is None:
        return function(x, *others, *constants)

    def shaped(t: Tensor) -> Tensor:
        return t.view(shape).permute(0, 3, 1, 2) if channels_last else t.view(shape)

    return tuple(map(shaped, out)) if isinstance(out, tuple) else shaped(out)
