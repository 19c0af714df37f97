"""Everything about a pruning that is not the score."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real

from .schedules import SCHEDULES, as_density
from .selection import SCOPES


@dataclass(frozen=True)
class PruneSettings:
    """Checked settings, shared by all pruners; :class:`~pab.pruners.base.Pruner` explains each.

    Build one with :meth:`checked`, which also turns densities into exact fractions.
    """

    density: Fraction
    rounds: int
    schedule: str
    scope: str
    prunable: tuple[str, ...]
    classifier_density: Fraction | None
    min_per_tensor: int

    @classmethod
    def checked(
        cls,
        owner: str,
        *,
        density: Real,
        rounds: int,
        schedule: str,
        scope: str,
        prunable: Sequence[str],
        classifier_density: Real | None,
        min_per_tensor: int,
    ) -> 'PruneSettings':
        """Check every setting; errors (ValueError, TypeError) begin with ``owner``, the pruner's class name."""
        if not isinstance(rounds, Integral) or isinstance(rounds, bool):
            raise TypeError(f'{owner}: rounds must be a whole number, got {rounds!r}')
        if rounds < 1:
            raise ValueError(f'{owner}: rounds must be at least 1, got {rounds!r}; 1 scores and masks once')
        if schedule not in SCHEDULES:
            raise ValueError(f'{owner}: schedule must be one of {", ".join(SCHEDULES)}, got {schedule!r}')
        if scope not in SCOPES:
            raise ValueError(f'{owner}: scope must be one of {", ".join(SCOPES)}, got {scope!r}')
        if isinstance(prunable, str) or not all(isinstance(kind, str) for kind in prunable):
            raise TypeError(f"{owner}: prunable must be a list of class names such as ('Conv2d',), got {prunable!r}")
        if not prunable:
            raise ValueError(f"{owner}: prunable is empty; name layer classes, such as ('Conv2d',)")
        if not isinstance(min_per_tensor, Integral) or isinstance(min_per_tensor, bool):
            raise TypeError(f'{owner}: min_per_tensor must be a whole number, got {min_per_tensor!r}')
        if min_per_tensor < 0:
            raise ValueError(f'{owner}: min_per_tensor must be at least 0, got {min_per_tensor!r}; 0 sets no floor')
        if classifier_density is not None:
            classifier_density = as_density(classifier_density, owner, 'classifier_density')
        return cls(
            as_density(density, owner),
            int(rounds),
            schedule,
            scope,
            tuple(prunable),
            classifier_density,
            int(min_per_tensor),
        )
