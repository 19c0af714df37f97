"""Everything about a pruning that is not the score."""

from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Integral

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
        for key, least, meaning in (('rounds', 1, '1 scores and masks once'), ('min_per_tensor', 0, '0 sets no floor')):
            value = getattr(self, key)
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise TypeError(f'{self.owner}: {key} must be a whole number, got {value!r}')
            if value < least:
                raise ValueError(f'{self.owner}: {key} must be at least {least}, got {value!r}; {meaning}')
        block = parse_n_of_m(self.scope)
        scopes = SCOPES if block is None else [self.scope]
        for key, known in (('schedule', SCHEDULES), ('scope', scopes), ('allocation', ALLOCATIONS)):
            if getattr(self, key) not in list(known):
                more = ", or 'n:m' with 1 <= n <= m, such as '2:4'" if key == 'scope' else ''
                listed = ', '.join(known) + more
                raise ValueError(f'{self.owner}: {key} must be one of {listed}, got {getattr(self, key)!r}')
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
