"""The argument ``density`` of a pruner: one number, or densities by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..checks import some
from ..patterns import LEAVE_OUT, Patterns, Place
from .schedules import as_density, kept_count

REST, TOTAL = 'rest', 'total'


@dataclass(frozen=True)
class Densities:
    """Densities as a config gives them, checked; :class:`~pab.pruners.base.Pruner` says what they mean.

    ``rest`` is that of the tensors that no pattern names, ``total`` that of all tensors together; at most one is given.
    """

    owner: str
    named: Mapping[str, Fraction]
    rest: Fraction | None
    total: Fraction | None

    @classmethod
    def read(cls, density: object, owner: str) -> 'Densities':
        """Read a number, or a list of pairs (pattern, density); TypeError or ValueError for anything else."""
        if not isinstance(density, Sequence) or isinstance(density, str):
            return cls(owner, {}, as_density(density, owner), None)
        named = {}
        for pair in density:
            if not isinstance(pair, Sequence) or len(pair) != 2 or not isinstance(pair[0], str):
                raise TypeError(
                    f'{owner}: density must be a number or a list of (pattern, density), such as '
                    f"[('Linear', 1.0), ('rest', 0.3)], got {density!r}"
                )
            if pair[0] in named or pair[0].startswith(LEAVE_OUT):
                rule = 'is there twice' if pair[0] in named else 'names no weight'
                raise ValueError(f'{owner}: density: {pair[0]!r} {rule}; give one density for each pattern')
            named[pair[0]] = as_density(pair[1], owner, f'density of {pair[0]!r}')
        rest, total = named.pop(REST, None), named.pop(TOTAL, None)
        if None not in (rest, total) or not (named or rest or total):
            raise ValueError(f"{owner}: density needs a pattern, 'rest' or 'total', and not both, got {density!r}")
        return cls(owner, named, rest, total)

    @property
    def plain(self) -> float | list[list]:
        """The densities as plain data, for a record."""
        if not self.named and self.rest:
            return float(self.rest)
        ends = ((key, value) for key, value in ((REST, self.rest), (TOTAL, self.total)) if value)
        return [[key, float(value)] for key, value in [*self.named.items(), *ends]]

    def by_tensor(
        self, places: Mapping[str, list[Place]], sizes: Mapping[str, int]
    ) -> tuple[dict[str, Fraction], Fraction | None]:
        """Find the density of each tensor that a pattern names, and that of the others (None: there are no others).

        Args:
            places: name -> places of every prunable tensor.
            sizes: name -> number of its weights.

        Raises:
            ValueError: a pattern names nothing, two name one tensor, a tensor has no density, or the total leaves the
                others nothing or more than they have.
        """
        lists, found = {p: Patterns(f'{self.owner}: density', [p]) for p in self.named}, {}
        for name, where in places.items():
            matching = [pattern for pattern, patterns in lists.items() if patterns.select_shared(where)]
            if len(matching) > 1:
                listed = ' and '.join(map(repr, matching))
                raise ValueError(f'{self.owner}: density: {listed} both name {name}; give each tensor one density')
            if matching:
                found[name] = self.named[matching[0]]
        if unused := [pattern for pattern, patterns in lists.items() if patterns.unused]:
            raise ValueError(
                f'{self.owner}: density: {unused[0]!r} names none of the prunable weights, {some(list(places))}; '
                'correct the pattern or extend prunable'
            )
        others, end = [name for name in places if name not in found], self.rest or self.total
        if bool(others) != bool(end):
            fault = f"{others[0]} has none; add ('rest', ...)" if others else "nothing is left for 'rest' or 'total'"
            raise ValueError(f'{self.owner}: density: {fault}, or change the patterns')
        if self.total is None or not found:
            return found, end
        kept, room = kept_count(sum(sizes.values()), end), sum(sizes[name] for name in others)
        share = kept - sum(kept_count(sizes[name], density) for name, density in found.items())
        if not 0 < share <= room:
            raise ValueError(
                f'{self.owner}: density: the total, {float(end):g}, keeps {kept} weights, which leaves {share} for the '
                f'{room} that no pattern names, and it must leave 1 to {room}; change the total or a density'
            )
        return found, Fraction(share, room)
