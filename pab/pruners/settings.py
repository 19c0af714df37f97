"""Everything about a pruning that is not the score."""

from dataclasses import dataclass, replace
from fractions import Fraction

from ..checks import check_ints, known_choice
from ..patterns import Patterns
from .allocation import ALLOCATIONS
from .densities import Densities
from .groups import SCOPES
from .n_of_m import parse_n_of_m
from .schedules import SCHEDULES


@dataclass(frozen=True)
class PruneSettings:
    """The settings that all pruners share, checked; :class:`~pab.pruners.base.Pruner` explains each.

    Errors (ValueError, TypeError) begin with ``owner``, the pruner's class name.
    """

    owner: str
    density: Densities
    rounds: int
    schedule: str
    scope: str
    prunable: tuple[str, ...]
    min_per_tensor: int
    allocation: str

    def __post_init__(self) -> None:
        check_ints(self.owner, rounds=self.rounds)
        check_ints(self.owner, 0, min_per_tensor=self.min_per_tensor)
        block = parse_n_of_m(self.scope)
        known_choice(self.owner, 'schedule', self.schedule, SCHEDULES)
        known_choice(self.owner, 'allocation', self.allocation, ALLOCATIONS)
        if block is None:
            known_choice(self.owner, 'scope', self.scope, (*SCOPES, 'n:m with 1 <= n <= m, such as 2:4'))
        if self.allocation != 'uniform' and self.scope != 'local':
            raise ValueError(
                f"{self.owner}: allocation {self.allocation!r} needs scope='local', got scope={self.scope!r}, which "
                "gives no tensor a density of its own; set scope='local' or leave allocation at 'uniform'"
            )
        converted = {'prunable': Patterns(f'{self.owner}: prunable', self.prunable).patterns}
        if not isinstance(self.density, Densities):
            converted['density'] = Densities.read(self.density, self.owner)
        vars(self).update(converted)  # frozen for everybody else
        if block:
            self._check_block(*block)

    def _check_block(self, n: int, m: int) -> None:
        density = self.density
        rule = f'{self.owner}: scope {self.scope!r} says what every block of {m} inputs keeps, so'
        if density.named or density.total:
            raise ValueError(f'{rule} density must be {n} / {m}, got {density.plain}; leave tensors out by prunable')
        if self.min_per_tensor:
            raise ValueError(f'{rule} min_per_tensor must be left at 0, got {self.min_per_tensor}')
        if float(density.rest) != n / m:
            raise ValueError(
                f'{self.owner}: density must be {n} / {m} with scope {self.scope!r}, got {float(density.rest):g}'
            )
        # n / m need not be a short decimal: 0.3333333333333333 means 1/3
        vars(self).update(density=replace(density, rest=Fraction(n, m)))
