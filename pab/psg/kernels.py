"""The passes over activations that PSG adds to a step, each a single fused loop where there is a compiler.

A pass is applied to the flat storage of a tensor: compiled (once for all shapes, see :mod:`pab.compiled`) or, with the
same numbers bit for bit, operation by operation.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ..compiled import run_compiled
from . import quantize as q

SMALLEST_COMPILED = 1 << 18  # entries; below, a pass costs less than it takes to repay a compilation


def is_large(x: Tensor) -> bool:
    """True where passes over ``x`` run as loops; inside a compiled network they are part of its own."""
    return x.numel() >= SMALLEST_COMPILED and not torch.compiler.is_compiling()


def fused(function: Callable) -> Callable:
    """``function(x, *tensors, *constants)``, entry by entry: one loop over the storage of ``x`` if that is large.

    The tensors are scales of no dimension, or of the shape of ``x``; what is returned, a tensor or a tuple of them, has
    the layout of ``x``. The caller may say by ``large`` whether a loop is worth its compilation.
    """

    @functools.wraps(function)
    def run(x: Tensor, *arguments, large: bool | None = None):
        if not (is_large(x) if large is None else large):
            return function(x, *arguments)
        x = _without_gaps(x)
        # one dimension, so that neither shape nor memory format asks for a kernel of its own
        tensors = [_flat(t, x) for t in (x, *arguments) if isinstance(t, Tensor)]
        out = run_compiled(function, tensors, arguments[len(tensors) - 1 :])
        if out is None:
            return function(x, *arguments)
        if isinstance(out, tuple):
            return tuple(t.as_strided(x.shape, x.stride()) for t in out)
        return out.as_strided(x.shape, x.stride())

    return run


def _without_gaps(x: Tensor) -> Tensor:
    """``x``, or a copy of it, that fills its storage in the order of its dimensions or channels_last."""
    channels_last = torch.channels_last if x.dim() == 4 else torch.contiguous_format
    return x if x.is_contiguous() else x.contiguous(memory_format=channels_last)


def _flat(t: Tensor, x: Tensor) -> Tensor:
    """The storage of a tensor like ``x``, brought into the order of ``x`` if it has another; scales as they are."""
    if t.dim() == 0:
        return t
    if t.stride() != x.stride():
        t = torch.empty_like(x, dtype=t.dtype).copy_(t)
    return t.as_strided((t.numel(),), (1,))


encode_input = fused(q.encode)
decode_input = fused(q.decode)
recode_input = fused(q.recode)


def input_range(x: Tensor, signed: bool | None) -> tuple[Tensor, Tensor]:
    """:func:`pab.psg.quantize.input_range`, reading a large ``x`` once."""
    if is_large(x):
        x = _without_gaps(x)
        size = x.numel() // len(x)
        if out := run_compiled(q.extremes, [x.as_strided((len(x), size), (size, 1))]):
            return q.range_of(*out, signed)
    return q.input_range(x, signed)


def quantize_gradient(grad: Tensor, bits: int) -> Tensor:
    """Q of an output gradient, signed, with the maximum of the whole tensor as its scale."""
    return _quantize_signed(grad, _tensor_scale(grad), bits)


def code_gradient(grad: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Q of an output gradient in bfloat16, without its scale, and the scale; bits <= 8."""
    scale = _tensor_scale(grad)
    return _signed_units(grad, scale, bits), scale


def _tensor_scale(grad: Tensor) -> Tensor:
    scale = None
    if is_large(grad):
        grad = _without_gaps(grad)
        scale = run_compiled(q.tensor_scale, [_flat(grad, grad)])
    return q.tensor_scale(grad) if scale is None else scale


_signed_units = fused(q.signed_units)


@fused
def _quantize_signed(grad: Tensor, scale: Tensor, bits: int) -> Tensor:
    return q.quantize(grad, bits, -scale, scale)


@fused
def weight_gradient(product: Tensor, factor: Tensor, threshold: float, relative: bool, take_sign: bool) -> Tensor:
    """The weight gradient from the product of quantised gradient and decoded input; ``factor`` is scale - low."""
    return q.sparse_gradient(product.to(factor.dtype) * factor, threshold, relative, take_sign)


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
