"""The order of samples in an epoch: fixed by a seed, shared among ranks, and resumable in the middle."""

from collections.abc import Iterator, Sized

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from torch import Tensor
from torch.utils.data import WeightedRandomSampler

from ..registry import DATA_SAMPLERS


class SampleIndex(int):
    """An index that carries the seed of the random numbers that this sample may use.

    It passes through batch samplers and to workers as any int. ``seed`` lies in 0..2^63 - 1.
    """

    def __new__(cls, index: int, seed: int):
        self = super().__new__(cls, index)
        self.seed = seed
        return self

    def __reduce__(self):
        return SampleIndex, (int(self), self.seed)


@DATA_SAMPLERS.register_module()
class EpochSampler(DefaultSampler):
    """mmengine's DefaultSampler (same order, same shards) whose indices carry seeds and which can start in mid-epoch.

    For a dataset: an index is a :class:`SampleIndex`; its ``seed`` depends on (seed, epoch, index) only. A dataset that
    draws all its random numbers from it gives the same sample on every rank, in every worker, and after a resume. One
    that draws none says ``random_items = False`` and gets plain ints.

    For a training loop: ``set_epoch(epoch)`` before each epoch (mmengine's DistSamplerSeedHook does it); to go on
    inside an epoch, ``skip(n)`` with the number of samples that this rank has used already.

    Args:
        seed: of the orders and of all samples; None draws one that all ranks share.
        round_up: repeat the first samples so that every rank has the same number (metrics drop them again).
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None, round_up: bool = True):
        if len(dataset) == 0:
            raise ValueError(f'EpochSampler: {type(dataset).__name__} has no samples')
        super().__init__(dataset, shuffle=shuffle, seed=seed, round_up=round_up)
        self._skipped = 0

    def skip(self, num_samples: int) -> None:
        """Let the next iteration leave out the first ``num_samples`` of this rank, 0..len(self); its length stays."""
        if not 0 <= num_samples <= len(self):
            rule = f'an epoch has {len(self)} samples on this rank'
            raise ValueError(f'EpochSampler: {rule}, so {num_samples!r} cannot be skipped')
        self._skipped = num_samples

    def __iter__(self) -> Iterator[int]:
        start, self._skipped = self._skipped, 0
        indices, draws = self._order()
        if not getattr(self.dataset, 'random_items', True):
            return iter(indices[start:])
        return map(SampleIndex, indices[start:], sample_seeds(self.seed, self.epoch, draws[start:]))

    def _order(self) -> tuple[list[int], list[int]]:
        """Return the samples of this rank in an epoch, and what tells their random numbers apart."""
        indices = list(super().__iter__())
        return indices, indices


@DATA_SAMPLERS.register_module()
class BalancedSampler(EpochSampler):
    """Draw every class equally often on average, each time any of its images, for classes of unequal size.

    An epoch is as long as that of EpochSampler. It has images of small classes several times, each time with random
    numbers of their own, and leaves out others. By seed and epoch, so it is resumed exactly.

    Args:
        dataset: with ``labels`` (N,), negative ones being no class; else ValueError.
        shuffle: must be True.
        seed, round_up: as of EpochSampler.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None, round_up: bool = True):
        if shuffle is not True:
            raise ValueError(f'BalancedSampler: draws images at random, so shuffle must be True, got {shuffle!r}')
        super().__init__(dataset, seed=seed, round_up=round_up)
        labels = getattr(dataset, 'labels', None)
        if labels is None:
            raise ValueError(
                f'BalancedSampler: {type(dataset).__name__} has no labels (N,) to balance; give ImageClassifier '
                'class_weights instead'
            )
        labels = labels.cpu()
        counts = torch.tensor(class_counts(labels), dtype=torch.float64)
        self._weights = torch.where(labels < 0, 0, 1 / counts[labels.clamp(min=0)])

    def _order(self) -> tuple[list[int], list[int]]:
        generator = torch.Generator().manual_seed((self.seed + self.epoch) % 2**63)
        drawn = list(WeightedRandomSampler(self._weights, self.total_size, generator=generator))
        places = range(self.rank, self.total_size, self.world_size)
        return [drawn[place] for place in places], list(places)


def class_counts(labels: Tensor, least: int = 0) -> list[int]:
    """How many of the labels (N,) are each class from 0 on, of ``least`` classes or more; negative ones are none."""
    return torch.bincount(labels[labels >= 0], minlength=least).tolist()


def sample_seeds(seed: int, epoch: int, indices: list[int]) -> list[int]:
    """One seed in 0..2^63 - 1 for each index: a hash of (seed, epoch, index)."""
    state = np.full(len(indices), seed % 2**64, dtype=np.uint64)
    state = _mix(_mix(state) ^ np.uint64(epoch))
    return (_mix(state ^ np.asarray(indices, dtype=np.uint64)) >> np.uint64(1)).tolist()


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's scrambling of 64-bit numbers, a bijection (Steele et al. 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
