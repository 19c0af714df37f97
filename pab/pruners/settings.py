"""Everything about a pruning that is not the score."""

from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral

from ..patterns import Patterns
from .schedules import SCHEDULES, as_density
from .selection import SCOPES


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

    def __post_init__(self) -> None:
        for key, least, meaning in (('rounds', 1, '1 scores and masks once'), ('min_per_tensor', 0, '0 sets no floor')):
            value = getattr(self, key)
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise TypeError(f'{self.owner}: {key} must be a whole number, got {value!r}')
            if value < least:
                raise ValueError(f'{self.owner}: {key} must be at least {least}, got {value!r}; {meaning}')
        for key, known in (('schedule', SCHEDULES), ('scope', SCOPES)):
            if getattr(self, key) not in known:
                raise ValueError(f'{self.owner}: {key} must be one of {", ".join(known)}, got {getattr(self, key)!r}')
        converted = {'prunable': Patterns(f'{self.owner}: prunable', self.prunable).patterns}
        for key in ('density', 'classifier_density'):
            if (value := getattr(self, key)) is not None or key == 'density':
                converted[key] = as_density(value, self.owner, key)
        vars(self).update(converted)  # frozen for everybody else
