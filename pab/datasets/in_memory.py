"""Datasets that fit in memory: one tensor of pixels, one of labels, a batch by one indexing."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class InMemoryDataset(Dataset):
    """A whole set of images held as one tensor.

    An item is ``dict(images=(C, H, W) uint8, labels=int)``. ``__getitems__`` returns a stacked batch,
    ``dict(images=(N, C, H, W) uint8, labels=(N,) int64)``: one indexing instead of N items and a collation; the collate
    function ``collate_images`` passes it through.

    Args:
        images: (N, C, H, W) uint8, 0..255.
        labels: (N,) int64, 0..len(classes) - 1.
        classes: the names of the classes, in order of the labels.
        indices: the samples to keep, in this order; each in 0..N-1, none twice; None keeps all.
        num_samples: how many samples to keep, 1..N; not together with ``indices``.
        sample_seed: which ``num_samples`` are kept: None means the first, a number draws them at random from it
            (numpy's RandomState, so the same on every machine).
    """

    random_items = False  # augmentation is the preprocessor's work, so indices need no seeds

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        classes: Sequence[str],
        indices: Sequence[int] | None = None,
        num_samples: int | None = None,
        sample_seed: int | None = None,
    ):
        kept = subset(type(self).__name__, len(labels), indices, num_samples, sample_seed)
        images = images if kept is None else images[kept]
        # channels last: a batch is augmented and normalised in that layout, and converting here costs once, not always
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = labels if kept is None else labels[kept]
        self.metainfo = {'classes': tuple(classes)}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return {'images': self.images[index], 'labels': int(self.labels[index])}

    def __getitems__(self, indices: Sequence[int]) -> dict:
        rows = torch.as_tensor(indices)
        # index_select copies whole images; plain indexing would visit them element by element
        images = self.images.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
        return {'images': images, 'labels': self.labels.index_select(0, rows)}


def subset(
    who: str, total: int, indices: Sequence[int] | None, num_samples: int | None, sample_seed: int | None
) -> Tensor | None:
    """Return the int64 positions to keep of ``total`` samples, or None for all; bad requests are ValueErrors."""
    if indices is not None and num_samples is not None:
        raise ValueError(f'{who}: give indices or num_samples, not both (num_samples={num_samples!r})')
    if sample_seed is not None and num_samples is None:
        raise ValueError(f'{who}: sample_seed={sample_seed!r} chooses among samples only together with num_samples')
    if indices is not None:
        kept = torch.as_tensor(indices)
        if kept.ndim != 1 or len(kept) == 0 or kept.dtype != torch.int64:
            raise ValueError(f'{who}: indices must be a list of one or more integers, got {indices!r}')
        if int(kept.min()) < 0 or int(kept.max()) >= total:
            raise ValueError(f'{who}: indices must lie in 0..{total - 1}, got {int(kept.min())}..{int(kept.max())}')
        if len(kept.unique()) != len(kept):
            raise ValueError(f'{who}: indices must not name a sample twice')
        return kept
    if num_samples is None:
        return None
    if not isinstance(num_samples, int) or isinstance(num_samples, bool) or not 1 <= num_samples <= total:
        raise ValueError(f'{who}: num_samples must be an integer in 1..{total}, got {num_samples!r}')
    if sample_seed is None:
        return torch.arange(num_samples)
    return torch.from_numpy(np.random.RandomState(sample_seed).permutation(total)[:num_samples].astype(np.int64))


def check_split(who: str, split: str, known: Sequence[str]) -> None:
    """Raise a ValueError unless ``split`` is one of ``known``."""
    if split not in known:
        raise ValueError(f'{who}: split must be one of {", ".join(map(repr, known))}, got {split!r}')
