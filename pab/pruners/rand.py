"""Random pruning, the baseline that every score has to beat."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..registry import PRUNERS
from .base import Pruner


@PRUNERS.register_module()
class Rand(Pruner):
    """Score a weight by a normal random number fixed by seed, tensor name and position; reads no data."""

    def score(self, weights: dict[str, Tensor], stream: Callable[[str], np.random.RandomState]) -> dict[str, Tensor]:
        return {name: torch.from_numpy(stream(name).standard_normal(tuple(w.shape))) for name, w in weights.items()}
