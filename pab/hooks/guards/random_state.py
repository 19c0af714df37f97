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

    What data loader workers draw is seeded sample by sample instead (see :class:`~pab.datasets.EpochSampler`).
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: PabRunner) -> None:
        """Seed the epoch's first step, before its batch is fetched."""
        seed_all(step_seed(runner.seed, runner.iter, runner.rank))

    def after_train_iter(self, runner: PabRunner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Seed the next step, before its batch is fetched."""
        seed_all(step_seed(runner.seed, runner.iter + 1, runner.rank))


def step_seed(seed: int, step: int, rank: int) -> int:
    """A 64-bit seed from (seed, step, rank), different ones being unrelated."""
    return int.from_bytes(hashlib.sha256(f'{seed}/{step}/{rank}'.encode()).digest()[:8], 'little')


def seed_all(seed: int) -> None:
    """Seed the global generators of python, numpy and torch (every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
