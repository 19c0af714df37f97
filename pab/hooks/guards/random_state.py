"""Randomness that depends on the seed and the step alone."""

import hashlib
import random

import numpy as np
import torch

from ...registry import HOOKS
from ...run import PabRunner, RunHook


@HOOKS.register_module()
class RandomStateHook(RunHook):
    """Seed python, numpy and torch anew for every step from (seed, step, rank): there is no random state to store.

    That is before the step's batch is loaded, so that a sampler may draw from them. A generator of its own, which
    torch's samplers and loaders may have, is seeded for each epoch, from the seed that it has and the epoch. What data
    loader workers draw is better seeded sample by sample (see :class:`~pab.datasets.EpochSampler`): workers kept by
    ``persistent_workers`` go on with the random numbers of the epoch before, which no resume brings back.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: PabRunner) -> None:
        """Note the generators that the order of the data depends on, and their seeds."""
        loader = runner.train_dataloader
        owners = loader, getattr(loader, 'sampler', None), getattr(loader, 'batch_sampler', None)
        generators = {getattr(owner, 'generator', None) for owner in owners}
        self._generators = [(own, own.initial_seed()) for own in generators if isinstance(own, torch.Generator)]

    def before_train_epoch(self, runner: PabRunner) -> None:
        """Seed whatever draws before the epoch's first step, and the generators."""
        seed_all(step_seed(runner.seed, runner.iter, runner.rank))
        for generator, seed in self._generators:
            generator.manual_seed(step_seed(seed, runner.epoch, 0))

    def before_fetch(self, runner: PabRunner, batch_idx: int) -> None:
        step = runner.epoch * len(runner.train_dataloader) + batch_idx
        seed_all(step_seed(runner.seed, step, runner.rank))


def step_seed(seed: int, step: int, rank: int) -> int:
    """A 64-bit seed from (seed, step, rank), different ones being unrelated."""
    return int.from_bytes(hashlib.sha256(f'{seed}/{step}/{rank}'.encode()).digest()[:8], 'little')


def seed_all(seed: int) -> None:
    """Seed the global generators of python, numpy and torch (every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # torch's own function would, for GPUs that may come, format the call stack: a millisecond of every step
        torch.default_generator.manual_seed(seed)
