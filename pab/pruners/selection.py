"""Who stays: scope, exact counts, ties and floors. Plain functions on flat tensors; nothing here knows a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from .schedules import kept_count

SCOPES = ('global', 'local')
SAMPLE_STEP = 251  # a prime: steps through channels and kernel positions alike


@dataclass(frozen=True)
class Group:
    """Tensors that compete under one threshold.

    Args:
        names: the tensors, in order of position.
        density: share of the group's weights kept after the last round, in (0, 1].
    """

    names: tuple[str, ...]
    density: Fraction


def make_groups(
    names: Sequence[str], scope: str, density: Fraction, classifier: str | None = None, classifier_density=None
) -> list[Group]:
    """Split the tensors into groups: all in one ('global') or each alone ('local'), the classifier apart if asked.

    Args:
        names: every prunable tensor, in module order.
        scope: 'global' or 'local'.
        density: of every group but the classifier's.
        classifier: the tensor with a density of its own, or None.
        classifier_density: its density; needed with ``classifier``.
    """
    rest = [name for name in names if name != classifier]
    split = [[name] for name in rest] if scope == 'local' else [rest]
    groups = [Group(tuple(part), density) for part in split if part]
    if classifier is not None:
        groups.append(Group((classifier,), classifier_density))
    return groups


def share_counts(sizes: Sequence[Sequence[int]], densities: Sequence[Fraction], floor: int) -> list[int]:
    """Count what each group keeps, so that every tensor can keep ``floor`` weights and the total stays exact.

    A group whose own count is below its floors is lifted to them; the groups with the most to spare pay for it, so the
    total is the one without floors.

    Args:
        sizes: number of weights of each tensor, by group.
        densities: of each group, at this round.
        floor: least number of weights that a tensor keeps; a smaller tensor keeps all it has.

    Raises:
        ValueError: the floors add up to more than may stay.
    """
    counts = [kept_count(sum(part), density) for part, density in zip(sizes, densities, strict=True)]
    floors = [sum(min(floor, size) for size in part) for part in sizes]
    if sum(floors) > sum(counts):
        raise ValueError(
            f'min_per_tensor: {floor} weights in each of {sum(map(len, sizes))} tensors need {sum(floors)} kept '
            f'weights, but the density leaves {sum(counts)}; lower min_per_tensor or raise the density'
        )
    lack = sum(max(least - count, 0) for least, count in zip(floors, counts, strict=True))
    spare = [count - least for least, count in zip(floors, counts, strict=True)]
    counts = [max(least, count) for least, count in zip(floors, counts, strict=True)]
    for i in sorted(range(len(counts)), key=lambda i: -spare[i]):  # stable: of equals the first pays
        paid = max(0, min(lack, spare[i]))
        counts[i] -= paid
        lack -= paid
    return counts


def keep_highest(scores: Tensor, alive: Tensor, count: int, sizes: Sequence[int] = (), floor: int = 0) -> Tensor:
    """Mark the ``count`` highest scores among the living; of equal scores the lower index stays.

    With a floor, the best ``floor`` weights of every tensor stay first; the rest of ``count`` goes to the highest of
    all others.

    Args:
        scores: (N,) floating, finite; several tensors laid end to end.
        alive: (N,) bool; the others are never marked.
        count: between 0 and the number of living, at least the sum of the floors.
        sizes: number of weights of each tensor, adding up to N; needed with ``floor``.
        floor: a tensor with fewer weights keeps all it has.

    Returns:
        (N,) bool with exactly ``count`` entries True.
    """
    kept = alive.clone()
    kept[lowest(scores, alive, int(alive.count_nonzero()) - count, sizes, floor)] = False
    return kept


def lowest(scores: Tensor, alive: Tensor, drop: int, sizes: Sequence[int] = (), floor: int = 0) -> Tensor:
    """Return the ``drop`` indices, ascending, that :func:`keep_highest` takes out of ``alive``."""
    if floor == 0:
        return _lowest(scores, alive, drop)
    safe = [
        keep_highest(score, living, min(floor, size))
        for score, living, size in zip(scores.split(list(sizes)), alive.split(list(sizes)), sizes, strict=True)
    ]
    return _lowest(scores, alive & ~torch.cat(safe), drop)


def _lowest(scores: Tensor, alive: Tensor, drop: int) -> Tensor:
    """Return the ascending indices of the ``drop`` lowest living scores; of equal scores the higher index goes."""
    candidates = _below_pivot(scores, alive, drop)
    values = scores.index_select(0, candidates)
    if drop in (0, len(candidates)):
        return candidates[:drop]
    threshold = torch.kthvalue(values, drop).values  # the highest score that goes
    gone = values < threshold
    ties = (values == threshold).nonzero().flatten()
    gone[ties[len(ties) - (drop - int(gone.sum())) :]] = True  # in order of position: the lower index survives
    return candidates[gone]


def _below_pivot(scores: Tensor, alive: Tensor, drop: int) -> Tensor:
    """Return the ascending indices of at least ``drop`` living scores, all of the lowest among them.

    A round removes a small share of many weights, so a pivot guessed from a sample spares the search in the others.
    """
    sample = scores[::SAMPLE_STEP][alive[::SAMPLE_STEP]]
    expected = drop / SAMPLE_STEP
    rank = int(expected + 5 * expected**0.5) + 5  # five standard deviations more than needed
    if rank < len(sample) // 2:
        candidates = _where((scores <= torch.kthvalue(sample, rank).values).logical_and_(alive))
        if len(candidates) >= drop:
            return candidates
    return _where(alive)


def _where(mask: Tensor) -> Tensor:
    if mask.device.type == 'cpu':
        return torch.from_numpy(np.flatnonzero(mask.numpy()))  # several times faster than torch's on few hits
    return mask.nonzero().flatten()
