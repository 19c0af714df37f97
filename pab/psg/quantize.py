r"""The quantiser Q, its scales and the 8-bit code, as plain functions on tensors.

.. math:: Q(x; b) = \mathrm{round}(\mathrm{clamp}((x - lo) / \delta, 0, 2^b - 1))\, \delta + lo, \quad
          \delta = (s - lo) / 2^b, \quad lo = -s \text{ if signed else } 0

with halves rounded to even. lo is a whole number of deltas, so Q(x) / delta is an integer and an exact 0 stays one.
Narrow types (float16, bfloat16) are quantised in float32. Source: the published code of Peek-a-Boo (ICLR 2022).
"""

import torch
from torch import Tensor

FULL_PRECISION_BITS = 32  # from here on Q is the identity


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which a tensor of ``dtype`` is quantised: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def code_dtype(bits: int, signed: bool) -> torch.dtype | None:
    """The narrowest integer type that :func:`encode` writes, or None above 16 bits, where no code is kept."""
    if bits <= 8:
        return torch.int8 if signed else torch.uint8
    return torch.int16 if bits <= 16 else None


def sample_max(x: Tensor) -> Tensor:
    """max|x| of each sample: (N, ...) -> (N,), in the working type. NaN if the sample has one."""
    return _abs_max(_in_storage_order(x).flatten(1), dim=1)


def input_scale(x: Tensor) -> Tensor:
    """Scale of a layer's input, (N, ...) -> (): the mean over the batch of each sample's max|x|."""
    return sample_max(x).mean()


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
    # |x| is never written, and two vectorised reductions are faster than torch.aminmax; a NaN comes through
    return torch.maximum(x.amax(dim), -x.amin(dim)).to(working_dtype(x.dtype))


def step_size(scale: Tensor, bits: int, signed: bool) -> Tensor:
    """delta, of the shape of ``scale``. Exact: the divisor is a power of two."""
    return scale * 2.0 ** (1 - bits if signed else -bits)


def index(x: Tensor, scale: Tensor, bits: int, signed: bool) -> Tensor:
    """Which of the 2^bits steps from lo an entry is on: whole floats 0 .. 2^bits - 1 of the shape of ``x``.

    The exact 0 of a signed tensor has the index 2^(bits-1). A scale of 0 or one that is not finite gives an index
    without a meaning, but no division by 0.
    """
    x = x.to(working_dtype(x.dtype))
    delta = step_size(scale, bits, signed)
    delta = torch.where((delta > 0) & (delta < torch.inf), delta, 1)
    # The reference's order of operations: x / delta + 2^(b-1) rounds otherwise, and at 16 bits moves one code in 256.
    shifted = x + scale if signed else x
    return (shifted / delta).clamp(0.0, 2.0**bits - 1).round()


def quantize(x: Tensor, bits: int, signed: bool, scale: Tensor) -> Tensor:
    """Q(x; bits), of the shape and type of ``x``.

    Args:
        x: floating tensor.
        bits: >= 1; 32 and more return ``x``.
        signed: whether the range is [-scale, scale] or [0, scale]; entries outside are clamped.
        scale: broadcasts against ``x``. Where it is 0 or not finite, ``x`` is returned as it is: a pruned filter makes
            no NaN, and an overflow that came in stays visible.
    """
    if bits >= FULL_PRECISION_BITS:
        return x
    value = index(x, scale, bits, signed) * step_size(scale, bits, signed)
    if signed:
        value = value - scale  # rounds as the reference does, which decides products that cancel
    return torch.where((scale > 0) & (scale < torch.inf), value, x).to(x.dtype)


def encode(x: Tensor, scale: Tensor, bits: int, signed: bool) -> Tensor:
    """The index of ``x``, less :func:`code_offset`, in :func:`code_dtype`; bits <= 16."""
    return (index(x, scale, bits, signed) - code_offset(bits, signed)).to(code_dtype(bits, signed))


def decode(codes: Tensor, bits: int, signed: bool, dtype: torch.dtype) -> Tensor:
    """Q(x) as far as it is exact: ``(Q(x) / delta) * 2^-bits`` in ``dtype``, in [-0.5, 1).

    Up to 8 bits it is exact in bfloat16 and float16, and products of it do not overflow. The missing factor is
    :func:`decode_factor`; a product with the decoded tensor is multiplied by it afterwards.
    """
    values = codes.to(working_dtype(dtype))
    zero = code_offset(bits, signed) - (2.0 ** (bits - 1) if signed else 0.0)
    if zero:
        values = values + zero
    return (values * 2.0**-bits).to(dtype)


def code_offset(bits: int, signed: bool) -> float:
    """What a code lacks of the index: 2^(bits-1) where the code is signed, so also above 8 bits (int16), else 0."""
    return 2.0 ** (bits - 1) if signed or bits > 8 else 0.0


def decode_factor(scale: Tensor, signed: bool) -> Tensor:
    """What :func:`decode` leaves out: delta * 2^bits, of the shape of ``scale``."""
    return scale * 2 if signed else scale


def sparse_gradient(
    grad: Tensor, threshold: float, relative: bool, take_sign: bool, exact: Tensor | None = None
) -> Tensor:
    """What becomes of the weight gradient: small entries go, and perhaps only the sign stays.

    Args:
        grad: any shape.
        threshold: >= 0; an entry is kept when ``|grad| >= threshold`` (times max|grad| if ``relative``).
        relative: see ``threshold``.
        take_sign: return the sign. An entry that is not finite stays, so that a loss scaler sees it.
        exact: of the shape of ``grad``, taken in the place of small entries; None puts 0 there.
    """
    if threshold > 0:
        bound = threshold * tensor_scale(grad).to(grad.dtype) if relative else threshold
        # "not small" instead of "large enough": a NaN compares false and is kept
        grad = torch.where(grad.abs() < bound, 0 if exact is None else exact, grad)
    if take_sign:
        grad = torch.where(grad.isfinite(), grad.sign(), grad)
    return grad
