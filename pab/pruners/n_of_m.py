"""Scope 'n:m': of every m consecutive inputs of a filter n stay. Plain functions on tensors.

The inputs of a filter are the second dimension of a weight: (out, in, ...). For a convolution that is the input
channels at one kernel position. At the end of that dimension fewer than m entries may be left over, and are a block of
their own.
"""

import math
import re
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from .schedules import kept_count
from .selection import equal


def parse_n_of_m(scope: object) -> tuple[int, int] | None:
    """Read 'n:m' with 1 <= n <= m as (n, m); None for anything else."""
    found = re.fullmatch(r'([1-9]\d*):([1-9]\d*)', scope) if isinstance(scope, str) else None
    n, m = map(int, found.groups()) if found else (1, 0)
    return (n, m) if n <= m else None


def count_in_blocks(shape: Sequence[int], m: int, density: Fraction) -> int:
    r"""Count the weights that stay: :math:`b - \lfloor (1 - d) b \rfloor` in every block of b entries."""
    filters = math.prod(shape) // shape[1]
    full, rest = divmod(shape[1], m)
    return filters * (full * kept_count(m, density) + kept_count(rest, density))


def living_in_blocks(alive: Tensor, m: int, density: Fraction) -> int:
    """Count the living, (out, in, ...) bool, of each block no more than are to stay there."""
    return sum(int(block.sum(2).clamp_(max=kept_count(block.shape[2], density)).sum()) for block in _blocks(alive, m))


def lowest_in_blocks(scores: Tensor, alive: Tensor, m: int, density: Fraction) -> tuple[Tensor, Tensor]:
    """Find what goes: in every block all the living but those with the highest scores; of equal scores the lower
    index stays. Equal is what :func:`~pab.pruners.selection.equal` says.

    Args:
        scores, alive: (out, in, ...) floating and bool; scores of the living are finite.
        m: entries of a block.
        density: share of a block that stays.

    Returns:
        (out, in, ...) bool: what goes, and what stays for its position alone.
    """
    gone, tied = torch.zeros_like(alive), torch.zeros_like(alive)
    for score, living, going, ties in zip(*(_blocks(part, m) for part in (scores, alive, gone, tied)), strict=True):
        kept, score = kept_count(score.shape[2], density), score.masked_fill(~living, -torch.inf)
        if kept == score.shape[2]:
            continue
        limit = score.sort(dim=2, descending=True).values[:, :, kept : kept + 1]  # the highest that goes
        ties.copy_(equal(score, limit) & limit.isfinite())
        order = torch.where(ties, limit, score).argsort(dim=2, descending=True, stable=True)
        going.scatter_(2, order[:, :, kept:], True)
    return gone & alive, tied & ~gone


def _blocks(tensor: Tensor, m: int) -> list[Tensor]:
    """Views (out, blocks, entries of a block, ...): of the full blocks, and of the rest."""
    full = tensor.shape[1] // m * m
    parts = (tensor[:, :full], m), (tensor[:, full:], tensor.shape[1] - full)
    return [part.unflatten(1, (-1, width)) for part, width in parts if part.shape[1]]
