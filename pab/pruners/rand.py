"""Random pruning, the baseline that every score has to beat."""

import torch
from torch import Tensor

from ..registry import PRUNERS
from .base import Pruner
from .streams import Streams


@PRUNERS.register_module()
class Rand(Pruner):
    """Score a weight by a normal random number fixed by seed, tensor name and position; reads no data."""

    def score(self, weights: dict[str, Tensor], generator: Streams) -> dict[str, Tensor]:
        return {name: torch.from_numpy(generator(name).standard_normal(tuple(w.shape))) for name, w in weights.items()}
