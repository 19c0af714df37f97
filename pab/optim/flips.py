r"""The arithmetic of a Bop step: average the gradient, flip what agrees with the average, count.

.. math:: m \leftarrow (1-\gamma)\, m + \gamma\, g; \quad w \leftarrow -w \text{ where } |m| \ge \tau, \; m w > 0

There are three ways through it, and they give the same numbers bit for bit: one compiled loop that reads m, g and w
once; blocks small enough to stay in a core's cache while torch's operations go over them; and one call an operation for
a whole list of tensors. A NaN in the average reaches no threshold, so its weight stays.
"""

import functools
from collections.abc import Sequence
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor

from .. import compiled

SMALLEST_COMPILED = 1 << 15  # entries of a tensor; below, several together are as fast without a compiler
SMALLEST_TOTAL = 1 << 20  # entries of all tensors of a step; below, the step is too short to repay a compilation
BLOCK = 1 << 16  # entries: five blocks in float32 stay in 2 MiB of cache; < 2**24, so that a float32 sum counts exactly
ROW = 64  # a multiple of every vector length, so that the compiled loop has no remainder to test for
PROBE = 100 * ROW  # entries on which the compiled loop is compared with the plain operations


class Entry(NamedTuple):
    """One parameter of a step: tensors of equal shape, and of equal layout if at all possible one-dimensional."""

    weight: Tensor
    average: Tensor
    grad: Tensor
    per_weight: Tensor | None
    """int32 counts that the step adds to; None when only the sum is wanted"""


class Rule(NamedTuple):
    """What decides about a flip."""

    rate: float
    threshold: float

    def largest_below(self, dtype: torch.dtype) -> float:
        """The largest number of a type that is still below the threshold; 0 for a threshold of 0."""
        return _largest_below(self.threshold, dtype)


@functools.cache
def _largest_below(threshold: float, dtype: torch.dtype) -> float:
    rounded = torch.tensor(threshold, dtype=dtype)
    return 0.0 if rounded == 0 else torch.nextafter(rounded, -rounded).item()


def step_(entries: Sequence[Entry], rule: Rule, foreach: bool | None) -> list[Tensor]:
    """Run a step on each entry, in place, and return the number of flips of each (int64, no dimensions, on the device).

    Args:
        foreach: True for list operations, False for blocks, None for whatever is fastest.
    """
    if foreach:
        return _step_lists(entries, rule)
    if foreach is False:
        return _step_blocks(entries, rule)
    large = sum(entry.weight.numel() for entry in entries) >= SMALLEST_TOTAL
    counts = _step_compiled(entries, rule) if large else [None] * len(entries)
    rest = [i for i, count in enumerate(counts) if count is None]
    # a GPU gains by few calls, a CPU by what stays in its cache
    step = _step_lists if rest and all(entries[i].weight.is_cuda for i in rest) else _step_packs
    for i, count in zip(rest, step([entries[i] for i in rest], rule), strict=True):
        counts[i] = count
    return counts


def aligned(param: Tensor, average: Tensor, grad: Tensor, per_weight: Tensor | None) -> Entry:
    """An entry over the storages of the tensors, one-dimensional if the parameter is dense in a usual memory format.

    A gradient of another layout is copied; ``average`` and ``per_weight`` have the parameter's (see :func:`like`).
    """
    tensors = (param, average, grad, per_weight)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        if _has_format(param, memory_format):
            if not _has_format(grad, memory_format):
                grad = grad.contiguous(memory_format=memory_format)
            tensors = (param, average, grad, per_weight)
            return Entry(*(None if t is None else _flat(t, memory_format) for t in tensors))
    return Entry(*tensors)


def like(tensor: Tensor, param: Tensor) -> Tensor:
    """The tensor, or a copy of it if its layout is not that of ``param``."""
    for memory_format in (torch.contiguous_format, torch.channels_last):
        if _has_format(param, memory_format):
            return tensor.contiguous(memory_format=memory_format)
    return tensor


def _has_format(tensor: Tensor, memory_format: torch.memory_format) -> bool:
    return (tensor.dim() == 4 or memory_format is torch.contiguous_format) and tensor.is_contiguous(
        memory_format=memory_format
    )


def _flat(tensor: Tensor, memory_format: torch.memory_format) -> Tensor:
    return (tensor.permute(0, 2, 3, 1) if memory_format is torch.channels_last else tensor).view(-1)


def _step_packs(entries: Sequence[Entry], rule: Rule) -> list[Tensor]:
    """Small entries are copied together, a pack being about a block, and the others take their blocks alone."""
    counts: list[Tensor | None] = [None] * len(entries)
    packs: dict[tuple, list[int]] = {}
    for i, (weight, average, grad, _) in enumerate(entries):
        if weight.dim() != 1 or 2 * weight.numel() > BLOCK:
            counts[i] = _step_in_blocks(entries[i], rule)
            continue
        pack = packs.setdefault((weight.dtype, average.dtype, grad.dtype, weight.device), [])
        pack.append(i)
        if sum(entries[j].weight.numel() for j in pack) > BLOCK:
            _step_pack(entries, pack, counts, rule)
            pack.clear()
    for pack in packs.values():
        if pack:
            _step_pack(entries, pack, counts, rule)
    return counts


def _step_pack(entries: Sequence[Entry], pack: Sequence[int], counts: list[Tensor | None], rule: Rule) -> None:
    weights, averages, grads, per_weights = zip(*(entries[i] for i in pack), strict=True)
    sizes = [weight.numel() for weight in weights]
    weight, average = torch.cat(weights), torch.cat(averages)
    flips = _average_and_flip(weight, average, torch.cat(grads), rule, _scratch(average))
    torch._foreach_copy_(averages, average.split(sizes))
    for i, flip, per_weight in zip(pack, flips.split(sizes), per_weights, strict=True):
        counts[i] = flip.sum().long()
        if per_weight is not None:
            per_weight.add_(flip.to(torch.int32))
    torch._foreach_copy_(weights, weight.mul_(flips.mul_(-2).add_(1)).split(sizes))


def _step_blocks(entries: Sequence[Entry], rule: Rule) -> list[Tensor]:
    return [_step_in_blocks(entry, rule) for entry in entries]


def _step_in_blocks(entry: Entry, rule: Rule) -> Tensor:
    if entry.weight.dim() != 1 or entry.weight.numel() <= BLOCK:
        return _step_block(entry, rule, _scratch(entry.average))
    scratch = _scratch(entry.average[:BLOCK])
    parts = zip(*(t.split(BLOCK) if t is not None else repeat(None) for t in entry), strict=False)
    counts = [_step_block(Entry(*p), rule, [t[: len(p[0])] for t in scratch]) for p in parts]
    return torch.stack(counts).sum()


def _scratch(average: Tensor) -> Sequence[Tensor]:
    return torch.empty_like(average), torch.empty_like(average)


def _step_block(entry: Entry, rule: Rule, scratch: Sequence[Tensor]) -> Tensor:
    weight, average, grad, per_weight = entry
    flips = _average_and_flip(weight, average, grad, rule, scratch)
    count = flips.sum(dtype=torch.int64 if flips.numel() > BLOCK else None).long()
    if per_weight is not None:
        per_weight.add_(flips.to(torch.int32))
    weight.mul_(flips.mul_(-2).add_(1))
    return count


def _average_and_flip(weight: Tensor, average: Tensor, grad: Tensor, rule: Rule, scratch: Sequence[Tensor]) -> Tensor:
    """Average in place, and return 1 where the weight is to flip, else 0, in floats: comparisons make bools, slowly."""
    large, signs = scratch
    average.mul_(1 - rule.rate).add_(grad if grad.dtype == average.dtype else grad.to(average.dtype), alpha=rule.rate)
    # keeps what reaches the threshold, and NaN, which has the sign 0
    torch.ops.aten.hardshrink.out(average, rule.largest_below(average.dtype), out=large)
    torch.sign(weight, out=signs) if weight.dtype == signs.dtype else signs.copy_(weight).sign_()
    return signs.mul_(large.sign_()).clamp_min_(0)


def _step_lists(entries: Sequence[Entry], rule: Rule) -> list[Tensor]:
    """All entries at once: on a GPU, a few kernels for the whole network."""
    counts: list[Tensor | None] = [None] * len(entries)
    kinds: dict[tuple, list[int]] = {}
    for i, (weight, average, grad, _) in enumerate(entries):
        kinds.setdefault((weight.dtype, average.dtype, grad.dtype, weight.device), []).append(i)
    for (_, dtype, _, _), which in kinds.items():
        weights, averages, grads, _ = zip(*(entries[i] for i in which), strict=True)
        flips = _average_and_compare(weights, averages, grads, rule, rule.largest_below(dtype))
        for i, flip in zip(which, flips, strict=True):
            # a float32 sum of ones is exact up to 2**24
            counts[i] = flip.sum() if flip.numel() < 1 << 24 else flip.sum(dtype=torch.float64)
            if entries[i].per_weight is not None:
                entries[i].per_weight.add_(flip.to(torch.int32))
        torch._foreach_mul_(flips, -2)
        torch._foreach_add_(flips, 1)
        for weight, flip in zip(weights, flips, strict=True) if weights[0].dtype != dtype else ():
            weight.mul_(flip)
        if weights[0].dtype == dtype:
            torch._foreach_mul_(weights, flips)
    return [count.long() for count in counts]


def _average_and_compare(weights, averages, grads, rule: Rule, below: float) -> list[Tensor]:
    dtype = averages[0].dtype
    torch._foreach_mul_(averages, 1 - rule.rate)
    torch._foreach_add_(averages, [grad.to(dtype) for grad in grads], alpha=rule.rate)
    small = torch._foreach_clamp_min(averages, -below)
    torch._foreach_clamp_max_(small, below)
    large = torch._foreach_sub(averages, small)  # not 0 exactly where the threshold is reached
    torch._foreach_sign_(large)
    flips = [weight.to(dtype, copy=True) for weight in weights]
    torch._foreach_sign_(flips)
    torch._foreach_mul_(flips, large)
    torch._foreach_clamp_min_(flips, 0)
    return flips


def _step_compiled(entries: Sequence[Entry], rule: Rule) -> list[Tensor | None]:
    """One loop over the storages of each entry; None in place of the count of an entry that cannot have it."""
    if torch.compiler.is_compiling() or not compiled.is_compiled() or _fused_multiply_add() is None:
        return [None] * len(entries)
    numbers: dict[torch.device, list[Tensor]] = {}
    counts = []
    for entry in entries:
        device = entry.weight.device
        if device not in numbers:
            numbers[device] = _numbers(rule, device)
        counts.append(_try_compiled(entry, numbers[device]))
    return counts


def _numbers(rule: Rule, device: torch.device) -> list[Tensor]:
    # tensors, so that another rate is no other loop; filled on the device, so that nothing waits for it
    values = (1 - rule.rate, rule.rate, rule.threshold)
    return [torch.full((), value, dtype=torch.float32, device=device) for value in values]


def _try_compiled(entry: Entry, numbers: Sequence[Tensor]) -> Tensor | None:
    weight, average, grad, per_weight = entry
    whole_rows = weight.dim() == 1 and weight.numel() % ROW == 0
    if (
        weight.numel() < SMALLEST_COMPILED
        or not whole_rows
        or average.dtype is not torch.float32
        or not compiled.is_compiled()
    ):
        return None
    key = (weight.dtype, grad.dtype, weight.device.type, per_weight is not None)
    try:
        return _call(entry, numbers, key) if _is_exact(*key) else None
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler or its absence raises, before the loop has run
        compiled.give_up(error)
        return None


def _call(entry: Entry, numbers: Sequence[Tensor], key: tuple) -> Tensor:
    rows = [None if tensor is None else tensor.view(-1, ROW) for tensor in entry]
    for tensor in rows:
        if tensor is not None:
            torch._dynamo.mark_dynamic(tensor, 0)
    return compiled.compile_pass(_fused_step, (_fused_multiply_add(),), *key)(*rows, *numbers)


def _fused_step(weight, average, grad, per_weight, keep, rate, threshold, multiply_add) -> Tensor:
    m = multiply_add(grad.to(torch.float32), rate.expand_as(average), average * keep)
    flips = (m.abs() >= threshold) & (m != 0) & ((m > 0) == (weight > 0)) & (weight != 0)
    count = torch.where(flips, 1.0, 0.0).to(torch.int32)
    average.copy_(m)
    weight.copy_(torch.where(flips, -weight, weight))
    if per_weight is not None:
        per_weight.copy_(per_weight + count)
    return count.sum(dtype=torch.int32).to(torch.int64)


@functools.cache
def _fused_multiply_add():
    """a * b + c with one rounding, as torch's ``add(alpha=)`` computes it; None in a torch that cannot compile it."""
    try:
        from torch._inductor import inductor_prims
    except ImportError:
        return None
    return getattr(inductor_prims, 'fma', None)


@functools.cache
def _is_exact(weight_dtype: torch.dtype, grad_dtype: torch.dtype, device: str, per_weight: bool) -> bool:
    """Whether the compiled loop gives the plain numbers on this machine, found out by running both."""
    generator = torch.Generator().manual_seed(0)
    rule = Rule(rate=0.1, threshold=0.05)
    weight, average, grad = (torch.randn(PROBE, generator=generator).to(device) for _ in range(3))
    pair = []
    for _ in range(2):
        flips = torch.zeros(PROBE, dtype=torch.int32, device=device) if per_weight else None
        pair.append(Entry(weight.to(weight_dtype, copy=True), average.clone(), grad.to(grad_dtype), flips))
    key = (weight_dtype, grad_dtype, device, per_weight)
    count = _call(pair[0], _numbers(rule, pair[0].weight.device), key)
    same = [torch.equal(count, _step_blocks([pair[1]], rule)[0])]
    same += [torch.equal(a, b) for a, b in zip(*pair, strict=True) if a is not None]
    return all(same)
