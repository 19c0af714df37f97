"""Flip frequency: keep the weights whose sign has settled."""

from torch import Tensor

from ..registry import PRUNERS
from .base import Pruner


@PRUNERS.register_module()
class FlipFreq(Pruner):
    """Score a weight by minus the number of its sign flips so far; reads the training history, no data."""

    def score(self, weights: dict[str, Tensor], flips: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: -flips[name].to(w) for name, w in weights.items()}
