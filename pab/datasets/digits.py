"""Handwritten digits that come with scikit-learn: real images, no download."""

import numpy as np
import torch

from ..checks import known_choice
from ..registry import DATASETS
from .in_memory import InMemoryDataset


@DATASETS.register_module()
class Digits(InMemoryDataset):
    """1,797 handwritten digits, 8 x 8 grey, ten classes, from scikit-learn's ``load_digits``.

    The split is fixed: of each class, in the file's order, every fifth sample (the 5th, 10th, ...) is a test sample:
    1,442 train, 355 test. The 17 grey levels 0..16 are spread over 0..255 (level * 255 / 16, rounded).

    Args:
        split: 'train' or 'test'.
        subset: ``indices``, ``num_samples``, ``sample_seed`` of :class:`InMemoryDataset`.

    Source: UCI optical recognition of handwritten digits, test part.
    """

    def __init__(self, split: str = 'train', **subset):
        known_choice('Digits', 'split', split, ('train', 'test'))
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            text = 'Digits: the images come with scikit-learn, which is not installed; pip install -e ".[demo]"'
            raise ImportError(text) from error
        images, labels = load_digits(return_X_y=True)
        test = np.zeros(len(labels), dtype=bool)
        for digit in range(10):
            test[np.flatnonzero(labels == digit)[4::5]] = True
        chosen = test if split == 'test' else ~test
        pixels = np.rint(images[chosen] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
        classes = [str(digit) for digit in range(10)]
        super().__init__(torch.from_numpy(pixels), torch.from_numpy(labels[chosen].astype(np.int64)), classes, **subset)
