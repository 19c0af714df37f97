"""The training images that a pruner is shown."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ...checks import check_ints
from ...run import PabRunner


@dataclass(frozen=True)
class PruneData:
    """A sample of the training set, drawn by the run's seed, without the preprocessor's augmentation.

    What a dataset itself does at random (ImageNet's crops) it does here too, fixed by the seed.
    """

    num_samples: int = 100  # at most the training set has
    batch_size: int = 100  # the last batch may be smaller

    def __post_init__(self) -> None:
        for key in ('num_samples', 'batch_size'):
            check_ints('PruneHook', **{f'data.{key}': getattr(self, key)})

    def check_size(self, runner: PabRunner) -> int:
        """Return the size of the training set; a ValueError if it has fewer images than asked for."""
        size, asked = len(runner.train_dataloader.dataset), self.num_samples
        if asked > size:
            raise ValueError(
                f'PruneHook: data.num_samples must not exceed the training set, {size}, got {asked}; set '
                f'default_hooks.prune.data.num_samples={size} or less'
            )
        return size

    def batches(self, runner: PabRunner) -> list[tuple[Tensor, Tensor]]:
        """(images (N, C, H, W), labels (N,)) as the network sees them in evaluation."""
        stream = np.random.RandomState(runner.seed % 2**32)
        chosen = stream.permutation(self.check_size(runner))[: self.num_samples].tolist()
        return _load(runner, chosen, self.batch_size)

    def input_shape(self, runner: PabRunner) -> tuple[int, ...]:
        """(C, H, W) of one image: the model's ``input_shape``, else that of a training image."""
        shape = getattr(runner.bare_model, 'input_shape', None)
        return tuple(_load(runner, [0], 1)[0][0].shape[1:] if shape is None else shape)


def _load(runner: PabRunner, indices: list[int], batch_size: int) -> list[tuple[Tensor, Tensor]]:
    training = runner.train_dataloader
    # a dataset may transform its samples at random, and the draws of the training must not depend on the pruning
    with torch.random.fork_rng():
        torch.manual_seed(runner.seed)
        loader = DataLoader(Subset(training.dataset, indices), batch_size, collate_fn=training.collate_fn)
        batches = [runner.bare_model.data_preprocessor(batch, False) for batch in loader]
    return [(batch['images'], batch['labels']) for batch in batches]
