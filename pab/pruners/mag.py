"""Magnitude pruning."""

from torch import Tensor

from ..registry import PRUNERS
from .base import Pruner


@PRUNERS.register_module()
class Mag(Pruner):
    """Score a weight by its magnitude; reads no data."""

    def score(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: w.abs() for name, w in weights.items()}
