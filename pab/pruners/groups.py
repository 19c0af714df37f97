"""Groups of tensors that compete, with the number of their weights that stay."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType

from torch import Tensor

from .allocation import ALLOCATIONS
from .n_of_m import count_in_blocks, living_in_blocks, lowest_in_blocks, parse_n_of_m
from .schedules import kept_count
from .selection import lowest

SCOPES = ('global', 'local')


@dataclass(frozen=True)
class Group:
    """Tensors that compete under one threshold."""

    names: tuple[str, ...]  # in order of position
    sizes: tuple[int, ...]  # number of weights of each
    density: Fraction  # the share of the group's weights that the schedule ends at, in (0, 1]
    count: int  # how many stay after the last round; floors may have changed what the density says

    @property
    def rule(self) -> str:
        """Words for it in an error."""
        return f'density {float(self.density):g}'

    def at(self, density: Fraction) -> 'Group':
        """The group in a round that ends at a higher density than the last."""
        return replace(self, count=max(self.count, kept_count(sum(self.sizes), density)))

    def survivors(self, alive: Tensor) -> int:
        """Count those of the living, (N,) bool, that the group lets live: ``count``, or less where there are less."""
        return min(self.count, int(alive.count_nonzero()))

    def losers(self, scores: Tensor, alive: Tensor, floor: int) -> tuple[Tensor, Tensor]:
        """Indices of the living that go, and of the living that stay for their position alone.

        Args:
            scores, alive: (N,) floating and bool.
            floor: the least number that each tensor keeps.
        """
        return lowest(scores, alive, int(alive.count_nonzero()) - self.survivors(alive), self.sizes, floor)


@dataclass(frozen=True)
class BlockGroup(Group):
    """A tensor in which every ``width`` consecutive inputs compete, and each such block keeps the density."""

    shape: tuple[int, ...]
    width: int

    @property
    def rule(self) -> str:
        return f'density {float(self.density):g} in every {self.width} inputs'

    def at(self, density: Fraction) -> 'BlockGroup':
        return replace(self, density=density, count=count_in_blocks(self.shape, self.width, density))

    def survivors(self, alive: Tensor) -> int:
        return living_in_blocks(alive.view(self.shape), self.width, self.density)

    def losers(self, scores: Tensor, alive: Tensor, floor: int) -> tuple[Tensor, Tensor]:
        gone, tied = lowest_in_blocks(scores.view(self.shape), alive.view(self.shape), self.width, self.density)
        return gone.flatten(), tied.flatten()


def make_groups(
    shapes: Mapping[str, Sequence[int]],
    scope: str,
    density: Fraction | None,
    floor: int = 0,
    allocation: str = 'uniform',
    named: Mapping[str, Fraction] = MappingProxyType({}),
) -> list[Group]:
    """Split the tensors into groups: all in one, each alone, or each in blocks; those in ``named`` apart.

    Args:
        shapes: name -> shape of every prunable tensor, in the model's order.
        scope: 'global', 'local' or 'n:m', for which the arguments below ``density`` have no meaning.
        density: of the tensors that are not in ``named``, in (0, 1]; None where there are none.
        floor: least number of weights that every tensor keeps; a smaller tensor keeps all it has. The total stays the
            one without floors; ValueError if they add up to more than that, or to more than a density in ``named``
            keeps.
        allocation: a name in ``ALLOCATIONS``, for scope 'local'.
        named: name -> density of each tensor that has one of its own.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if block := parse_n_of_m(scope):
        whole = [BlockGroup((name,), (sizes[name],), density, 0, tuple(shapes[name]), block[1]) for name in shapes]
        return [group.at(density) for group in whole]
    rest, groups = [name for name in shapes if name not in named], []
    if rest and scope == 'local':
        counts = ALLOCATIONS[allocation]([shapes[name] for name in rest], density, floor)
        for name, count in zip(rest, counts, strict=True):
            groups.append(Group((name,), (sizes[name],), _share(count, sizes[name], density), count))
    elif rest:
        groups.append(_group(rest, sizes, density))
    alone = [_group([name], sizes, named[name]) for name in named]
    for group in alone:
        if group.count < (least := min(floor, *group.sizes)):
            raise ValueError(
                f'min_per_tensor: {group.names[0]} needs {least} weights, but its {group.rule} keeps {group.count}; '
                'lower min_per_tensor or raise that density'
            )
    return [*_with_floors(groups, floor), *alone]


def _group(names: Sequence[str], sizes: Mapping[str, int], density: Fraction) -> Group:
    part = tuple(sizes[name] for name in names)
    return Group(tuple(names), part, density, kept_count(sum(part), density))


def _share(count: int, size: int, density: Fraction) -> Fraction:
    """The density that the schedule of a tensor ends at: its own, unless rounding alone sets it apart."""
    # none is left out of the schedule: one that keeps nothing loses its last weight in the last round
    return density if count == kept_count(size, density) else Fraction(max(count, 1), size)


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
