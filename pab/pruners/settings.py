"""Everything about a pruning that is not the score."""

from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral

from ..patterns import Patterns
from .allocation import ALLOCATIONS
from .groups import SCOPES
from .n_of_m import parse_n_of_m
from .schedules import SCHEDULES, as_density


@dataclass(frozen=True)
class PruneSettings:
    """The settings that all pruners share, checked; :class:`~pab.pruners.base.Pruner` explains each.

    Densities are given as numbers and kept as exact fractions. Errors (ValueError, TypeError) begin with ``owner``, the
    pruner's class name.
    """

    owner: str
    density: Fraction
    rounds: int
    schedule: str
    scope: str
    prunable: tuple[str, ...]
    classifier_density: Fraction | None
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
        for key in ('density', 'classifier_density'):
            if (value := getattr(self, key)) is not None or key == 'density':
                converted[key] = as_density(value, self.owner, key)
        vars(self).update(converted)  # frozen for everybody else
        if block:
            self._check_block(*block)

    def _check_block(self, n: int, m: int) -> None:
        for key, none in (('classifier_density', None), ('min_per_tensor', 0)):
            if (value := getattr(self, key)) != none:
                raise ValueError(
                    f'{self.owner}: scope {self.scope!r} says what every block of {m} inputs keeps, so {key} must be '
                    f'left at {none}, got {value}'
                )
        if float(self.density) == n / m:  # n / m need not be a short decimal: 0.3333333333333333 means 1/3
            vars(self).update(density=Fraction(n, m))
        if self.density < Fraction(n, m):  # one that is higher may be that of a shot on the way
            raise ValueError(self.density_rule)

    @property
    def is_final(self) -> bool:
        """Whether the density is the one that the scope ends at: n / m for 'n:m', any for another scope."""
        block = parse_n_of_m(self.scope)
        return block is None or self.density == Fraction(*block)

    @property
    def density_rule(self) -> str:
        """What an error says of a density that does not fit scope 'n:m'."""
        share = self.scope.replace(':', ' / ')
        return f'{self.owner}: density must be {share} with scope {self.scope!r}, got {float(self.density):g}'
