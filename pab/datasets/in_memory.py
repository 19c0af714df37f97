"""Datasets that fit in memory: one tensor of pixels, one of labels, a batch by one indexing."""

import functools
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import FUNCTIONS  # the runner looks collate functions up in the root registry
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ..checks import known_choice
from ..registry import DATASETS
from .classes import NamedClasses, check_class_names
from .common import subset


class InMemoryDataset(NamedClasses, Dataset):
    """A whole set of images held as one tensor.

    An item is ``dict(images=(C, H, W) uint8, labels=int)``. ``__getitems__`` returns a stacked batch,
    ``dict(images=(N, C, H, W) uint8, labels=(N,) int64)``, by one indexing; ``collate_images`` passes it through.

    Args:
        images: (N, C, H, W) uint8, 0..255.
        labels: (N,) int64, 0..number of classes - 1.
        classes: two or more different names, in the order of the labels; None where they have no names.
        device: keeps all of them there, such as 'cuda', so that no step copies pixels to a GPU; by default they stay in
            the memory of the CPU. A loader with workers cannot use it.
        chosen: ``indices``, ``num_samples`` and ``sample_seed`` choose samples, see :func:`subset`.

    Raises:
        ValueError: ``classes`` are no such names, ``device`` is none that torch has here, or the samples cannot be
            chosen so.
    """

    random_items = False  # augmentation is the preprocessor's work, so indices need no seeds

    def __init__(
        self, images: Tensor, labels: Tensor, classes: Sequence[str] | None, device: str | None = None, **chosen
    ):
        self.metainfo = {} if classes is None else {'classes': check_class_names(type(self).__name__, classes)}
        kept = subset(type(self).__name__, len(labels), **chosen)
        # channels last: a batch is augmented and normalised in that layout, and converting here costs once, not always
        self.images = images[kept].contiguous(memory_format=torch.channels_last)
        self.labels = labels[kept]
        if device is not None:
            try:
                self.images, self.labels = self.images.to(device), self.labels.to(device)
            except (RuntimeError, AssertionError) as error:  # an unknown name, or no such device
                reason = str(error).splitlines()[0]
                raise ValueError(f'{type(self).__name__}: device {device!r} cannot be used here: {reason}') from error

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return {'images': self.images[index], 'labels': int(self.labels[index])}

    def __getitems__(self, indices: Sequence[int]) -> dict:
        rows = torch.as_tensor(indices).to(self.images.device, non_blocking=True)
        # index_select copies whole images; plain indexing would visit them element by element
        images = self.images.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
        return {'images': images, 'labels': self.labels.index_select(0, rows)}


@functools.cache
def _load_digits() -> np.ndarray:
    """(1797, 65) uint8: the pixels, 0..16, and the label of each digit, from a file of scikit-learn."""
    # not by its load_digits: importing scikit-learn takes longer than the rest of a small run's start
    if not (found := find_spec('sklearn')):
        raise ImportError('Digits: the images come with scikit-learn, which is not installed; pip install scikit-learn')
    file = Path(found.origin).parent / 'datasets' / 'data' / 'digits.csv.gz'
    return np.loadtxt(file, delimiter=',', dtype=np.uint8)


@DATASETS.register_module()
class Digits(InMemoryDataset):
    """1,797 handwritten digits, 8 x 8 grey, ten classes, from scikit-learn.

    The split is fixed: of each class, in the file's order, every fifth sample (the 5th, 10th, ...) is a test sample:
    1,442 train, 355 test. The 17 grey levels 0..16 are spread over 0..255 (level * 255 / 16, rounded). Arguments
    besides ``split``, 'train' or 'test', are those of :class:`InMemoryDataset`.

    Source: UCI optical recognition of handwritten digits, test part.
    """

    def __init__(self, split: str = 'train', **subset):
        known_choice('Digits', 'split', split, ('train', 'test'))
        digits = _load_digits()
        images, labels = digits[:, :-1], digits[:, -1]
        test = np.zeros(len(labels), dtype=bool)
        for digit in range(10):
            test[np.flatnonzero(labels == digit)[4::5]] = True
        chosen = test if split == 'test' else ~test
        pixels = np.rint(images[chosen] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
        classes = [str(digit) for digit in range(10)]
        super().__init__(torch.from_numpy(pixels), torch.from_numpy(labels[chosen].astype(np.int64)), classes, **subset)


@FUNCTIONS.register_module()
def collate_images(batch: Mapping | Sequence[Mapping]) -> Mapping:
    """The batch itself where ``__getitems__`` has stacked it, else a list of items stacked by torch.

    In a config: ``collate_fn=dict(type='collate_images')``.
    """
    return batch if isinstance(batch, Mapping) else default_collate(batch)
