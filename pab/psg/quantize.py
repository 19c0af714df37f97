r"""The quantiser Q, its ranges and the code that is kept of an input, as plain functions on tensors.

.. math:: Q(x; b) = \mathrm{round}(\mathrm{clamp}((x - lo) / \delta, 0, 2^b - 1))\, \delta + lo, \quad
          \delta = (s - lo) / 2^b, \quad lo = -s \text{ or } 0

with halves rounded to even. lo is a whole number of deltas, so Q(x) / delta is an integer and an exact 0 stays one.
Everywhere ``low`` is lo and ``scale`` is s: tensors of the same shape on the device of ``x``, so that nothing waits for
it. Narrow types (float16, bfloat16) are quantised in float32. Source: the published code of Peek-a-Boo (ICLR 2022).
"""

import torch
from torch import Tensor

FULL_PRECISION_BITS = 32  # from here on Q is the identity


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which a tensor of ``dtype`` is quantised: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def code_dtype(bits: int) -> torch.dtype | None:
    """The narrowest integer type that :func:`encode` writes, or None above 16 bits, where no code is kept."""
    return torch.uint8 if bits <= 8 else torch.int16 if bits <= 16 else None


def input_range(x: Tensor, signed: bool | None = None) -> tuple[Tensor, Tensor]:
    """The range of a layer's input (N, ...): low () and scale (), both 0 for an empty batch.

    The scale is the mean over the batch of each sample's max|x|. low is 0 if ``signed`` is False, -scale if it is True,
    and with None -scale where the batch has a negative entry, else 0. A NaN makes the scale NaN.
    """
    if x.numel() == 0:
        return (x.new_zeros((), dtype=working_dtype(x.dtype)),) * 2
    return range_of(*extremes(_in_storage_order(x).flatten(1)), signed)


def extremes(samples: Tensor) -> tuple[Tensor, Tensor]:
    """max|x| of each sample (N, M) -> (N,), and a number () that is negative if there is a negative entry."""
    least = samples.amin(1)
    return torch.maximum(samples.amax(1), -least).to(working_dtype(samples.dtype)), least.amin()


def range_of(maxima: Tensor, least: Tensor, signed: bool | None) -> tuple[Tensor, Tensor]:
    """:func:`input_range` from what :func:`extremes` returns."""
    scale = maxima.mean()
    if signed is None:
        return torch.where(least < 0, -scale, 0), scale
    return (-scale if signed else torch.zeros_like(scale)), scale


def tensor_scale(x: Tensor) -> Tensor:
    """Scale of an output gradient, any shape -> (): max|x| over the whole tensor."""
    return _abs_max(_in_storage_order(x).flatten(), dim=0)


def channel_scale(w: Tensor) -> Tensor:
    """Scale of a weight, (C_out, ...) -> (C_out, 1, ...): max|w| of each output channel."""
    return _abs_max(_in_storage_order(w).flatten(1), dim=1).view(-1, *[1] * (w.dim() - 1))


def _in_storage_order(x: Tensor) -> Tensor:
    # (N, C, H, W) channels_last -> (N, H, W, C): flattened without a copy, and a maximum does not ask for the order
    return x if x.dim() != 4 or x.is_contiguous() else x.permute(0, 2, 3, 1)


def _abs_max(x: Tensor, dim: int) -> Tensor:
    if x.shape[dim] == 0:
        return x.new_zeros(x.shape[:dim], dtype=working_dtype(x.dtype))
    # in the type of x: bfloat16 has more entries in a register, and no copy
    return torch.maximum(x.amax(dim), -x.amin(dim)).to(working_dtype(x.dtype))


def index(x: Tensor, bits: int, low: Tensor, scale: Tensor) -> Tensor:
    """The number of steps from low to an entry, of 2^bits: whole floats 0 .. 2^bits - 1 of the shape of ``x``.

    A range of no length or one that is not finite gives an index without a meaning, but no division by 0.
    """
    delta = (scale - low) * 2.0**-bits  # exact: scale - low is s or 2 s
    delta = torch.where((delta > 0) & (delta < torch.inf), delta, 1)
    # The reference's order of operations: x / delta + 2^(b-1) rounds otherwise, and at 16 bits moves one code in 256.
    return (x.to(delta.dtype) - low).div_(delta).clamp_(0.0, 2.0**bits - 1).round_()


def quantize(x: Tensor, bits: int, low: Tensor, scale: Tensor) -> Tensor:
    """Q(x; bits), of the shape and type of ``x``.

    32 bits and more return ``x``. The range broadcasts against ``x``, and entries outside are clamped. Where the scale
    is 0 or not finite, ``x`` is returned as it is: a pruned filter makes no NaN, and an overflow stays visible.
    """
    if bits >= FULL_PRECISION_BITS:
        return x
    # adding low rounds as the reference does, which decides products that cancel
    value = index(x, bits, low, scale) * ((scale - low) * 2.0**-bits) + low
    return torch.where((scale > 0) & (scale < torch.inf), value, x).to(x.dtype)


def encode(x: Tensor, low: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The index of ``x`` in :func:`code_dtype`, less 2^15 above 8 bits, so that it fits; bits <= 16."""
    codes = index(x, bits, low, scale)
    return (codes if bits <= 8 else codes - 2.0**15).to(code_dtype(bits))


def decode(codes: Tensor, low: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Q(x) / (scale - low) in ``dtype``, in [-0.5, 1): what can be written without error.

    Up to 8 bits it is exact in bfloat16 and float16. A product with it is multiplied by ``scale - low`` afterwards.
    """
    indices = codes.to(working_dtype(dtype))
    if bits > 8:
        indices = indices + 2.0**15
    return torch.where(low < 0, -0.5, 0.0).add(indices, alpha=2.0**-bits).to(dtype)


def recode(x: Tensor, low: Tensor, scale: Tensor, bits: int) -> Tensor:
    """:func:`decode` of the code of ``x``, in its type, without the code; bits <= 16."""
    return torch.where(low < 0, -0.5, 0.0).add(index(x, bits, low, scale), alpha=2.0**-bits).to(x.dtype)


def signed_units(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Q(x; bits) / scale over [-scale, scale], in bfloat16, which holds it without error up to 8 bits."""
    return index(x, bits, -scale, scale).sub_(2.0 ** (bits - 1)).mul_(2.0 ** (1 - bits)).to(torch.bfloat16)


def sparse_gradient(
    grad: Tensor, threshold: float, relative: bool, take_sign: bool, exact: Tensor | None = None
) -> Tensor:
    """Drop the small entries of a weight gradient, and with ``take_sign`` all but the signs.

    An entry is kept when ``|grad| >= threshold`` (times max|grad| if ``relative``); in the place of others come
    those of ``exact``, of the same shape, or 0. With ``take_sign`` only an entry that is not finite keeps more than its
    sign, so that a loss scaler sees it.
    """
    if threshold > 0:
        bound = threshold * tensor_scale(grad).to(grad.dtype) if relative else threshold
        # "not small" instead of "large enough": a NaN compares false and is kept
        grad = torch.where(grad.abs() < bound, 0 if exact is None else exact, grad)
    return torch.where(grad.isfinite(), grad.sign(), grad) if take_sign else grad
