"""Who stays: groups, exact counts, ties and floors. Plain functions on flat tensors; nothing here knows a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from torch import Tensor

from .schedules import kept_count

SCOPES = ('global', 'local')
SAMPLE_STEP = 251  # a prime: steps through channels and kernel positions alike


@dataclass(frozen=True)
class Group:
    """Tensors that compete under one threshold."""

    names: tuple[str, ...]  # in order of position
    sizes: tuple[int, ...]  # number of weights of each
    density: Fraction  # the share of the group's weights that the schedule ends at, in (0, 1]
    count: int  # how many stay after the last round; floors may have changed what the density says


def make_groups(
    sizes: Mapping[str, int],
    scope: str,
    density: Fraction,
    floor: int = 0,
    classifier: str | None = None,
    classifier_density: Fraction | None = None,
) -> list[Group]:
    """Split the tensors into groups: all in one ('global') or each alone ('local'), the classifier apart if asked.

    Args:
        sizes: name -> number of weights of every prunable tensor, in the model's order.
        scope: 'global' or 'local'.
        density: of every group but the classifier's, in (0, 1].
        floor: least number of weights that every tensor keeps; a smaller tensor keeps all it has. The total stays the
            one without floors; ValueError if they add up to more than that.
        classifier: the tensor that has ``classifier_density``, or None.
    """
    rest = [name for name in sizes if name != classifier]
    split = [((name,), density) for name in rest] if scope == 'local' else [(tuple(rest), density)]
    split.append(((classifier,) if classifier else (), classifier_density))
    groups = []
    for names, share in split:
        if names:
            part = tuple(sizes[name] for name in names)
            groups.append(Group(names, part, share, kept_count(sum(part), share)))
    return _with_floors(groups, floor)


def _with_floors(groups: list[Group], floor: int) -> list[Group]:
    """Lift each group that keeps less than its floors to them; those with the most to spare pay."""
    floors = [sum(min(floor, size) for size in group.sizes) for group in groups]
    spare = [group.count - least for group, least in zip(groups, floors, strict=True)]
    if sum(spare) < 0:
        raise ValueError(
            f'min_per_tensor: {floor} weights in each of {sum(len(group.sizes) for group in groups)} tensors need '
            f'{sum(floors)} kept weights, but the density leaves {sum(group.count for group in groups)}; lower '
            'min_per_tensor or raise the density'
        )
    lack = sum(max(-more, 0) for more in spare)
    counts = [max(group.count, least) for group, least in zip(groups, floors, strict=True)]
    for i in sorted(range(len(counts)), key=lambda i: -spare[i]):  # stable: of equals the first pays
        paid = max(0, min(lack, spare[i]))
        counts[i] -= paid
        lack -= paid
    return [replace(group, count=count) for group, count in zip(groups, counts, strict=True)]


def lowest(scores: Tensor, alive: Tensor, drop: int, sizes: Sequence[int], floor: int = 0) -> Tensor:
    """Find the lowest scores among the living; of equal scores the higher index goes.

    With a floor, the best ``floor`` weights of every tensor are safe, and the others compete.

    Args:
        scores, alive: (N,) floating and bool, several tensors laid end to end; scores of the living are finite.
        drop: how many go, at most the number of living less those that are safe.
        sizes: number of weights of each tensor, adding up to N.
        floor: a tensor with fewer living weights keeps them all.

    Returns:
        (drop,) indices, in no particular order.
    """
    if floor:
        alive = alive.clone()
        for score, living in zip(scores.split(list(sizes)), alive.split(list(sizes)), strict=True):
            best = _lowest(-score.flip(0), living.flip(0), floor)  # backwards: of equal scores the lower index is safe
            living[len(living) - 1 - best] = False
    return _lowest(scores, alive, drop)


def _lowest(scores: Tensor, alive: Tensor, drop: int) -> Tensor:
    candidates = _candidates(scores, alive, drop).flip(0)  # ties: the higher index goes first
    return candidates[scores[candidates].argsort(stable=True)[:drop]]


def _candidates(scores: Tensor, alive: Tensor, drop: int) -> Tensor:
    """The ascending indices of at least ``drop`` living scores, all of the lowest among them.

    A round removes a small share of many weights. A bound guessed from a sample spares sorting the others.
    """
    sample = scores[::SAMPLE_STEP][alive[::SAMPLE_STEP]]
    expected = drop / SAMPLE_STEP
    rank = int(expected + 5 * expected**0.5) + 5  # five standard deviations more than needed
    if rank < len(sample) // 2:
        candidates = ((scores <= sample.kthvalue(rank).values) & alive).nonzero().flatten()
        if len(candidates) >= drop:
            return candidates
    return alive.nonzero().flatten()
