"""One step on one tensor of weights whose signs are trained: average, flip what a rule says, count.

A rule (such as :func:`pab.optim.bop.agree`) is a plain function that works entry by entry. It runs in two ways, with
the same numbers bit for bit: as one compiled loop over the storage of a large tensor (:mod:`pab.compiled`), or
operation by operation, on a CPU in blocks that stay in its cache.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..compiled import run_compiled

BLOCK = 1 << 16  # entries: five blocks of float32 stay in a core's cache, and no more entries repay no compilation

Rule = Callable[..., Tensor]
"""``rule(signs, grad, *averages, *numbers)`` moves the averages by the gradient, in place, and returns 1 where the
weight flips, else 0, in their type. ``signs`` are those of the weights (-1, 0 or 1); it may be changed. Comparisons
that write floats (``gt_``) are faster than comparisons that make bools."""


def flip_(
    rule: Rule,
    weight: Tensor,
    grad: Tensor,
    averages: Sequence[Tensor],
    weight_flips: Tensor | None,
    numbers: Sequence[float | Tensor],
) -> Tensor:
    """Apply a rule to a tensor of weights, in place.

    Args:
        weight: of any shape and memory layout; ``grad`` has its shape.
        averages: at least one, of its shape and layout (see :func:`laid_out`), of one type, float32 or wider.
        weight_flips: int32 of its shape and layout, to which the flips are added; or None.
        numbers: further arguments of the rule, such as rates; floats, or tensors of no dimensions on the device.

    Returns the number of weights that have flipped: int64, no dimensions, on the device.
    """
    # of sharded ones (FSDP2's DTensors) the part of this process
    weight, grad, weight_flips, *averages = (
        tensor.to_local() if hasattr(tensor, 'placements') else tensor
        for tensor in (weight, grad, weight_flips, *averages)
    )
    tensors = (weight.detach(), laid_out(grad, weight), weight_flips, *averages)
    has_gaps = _layout(weight) != _layout(averages[0])  # an average has none
    if weight.numel() <= BLOCK or has_gaps:
        return _flip_(*tensors, *numbers, rule)
    tensors = [None if t is None else t.as_strided((t.numel(),), (1,)) for t in tensors]
    kind = averages[0].dtype, weight.device
    scalars = [n if isinstance(n, Tensor) else _filled(n, *kind) for n in numbers]
    count = run_compiled(_flip_, (*tensors, *scalars), (rule,))
    if count is None:
        size = weight.numel() if weight.is_cuda else BLOCK  # a GPU gains by few calls, not by its cache
        blocks = [[None] * -(-weight.numel() // size) if t is None else t.split(size) for t in tensors]
        count = torch.stack([_flip_(*block, *numbers, rule) for block in zip(*blocks, strict=True)]).sum()
    return count


def _flip_(weight: Tensor, grad: Tensor, weight_flips: Tensor | None, *others) -> Tensor:
    *others, rule = others
    dtype = others[0].dtype
    flips = rule(weight.sign().to(dtype), grad.to(dtype), *others)
    ones = flips.to(torch.int32)
    if weight_flips is not None:
        weight_flips.add_(ones)
    weight.mul_(flips.mul_(-2).add_(1))
    return ones.sum(dtype=torch.int32).to(torch.int64)  # by way of int32: faster, and wide enough for a tensor


def laid_out(tensor: Tensor, weight: Tensor) -> Tensor:
    """The tensor, or a copy of it in the memory layout of the weight if it has another."""
    return tensor if _layout(tensor) == _layout(weight) else torch.empty_like(weight, dtype=tensor.dtype).copy_(tensor)


def _layout(tensor: Tensor) -> list[int]:
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


@functools.lru_cache(maxsize=64)
def _filled(number: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((), number, dtype=dtype, device=device)  # filled there: nothing waits for it


@functools.lru_cache(maxsize=64)
def largest_below(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of a type that is below a threshold, so that "reaches it" is "above this"; 0 for 0."""
    rounded = torch.tensor(threshold, dtype=dtype)
    return 0.0 if rounded == 0 else torch.nextafter(rounded, -rounded).item()
