from importlib.util import find_spec

import numpy as np
import pytest
import torch

from pab.datasets import in_memory
from pab.registry import DATASETS

pytestmark = pytest.mark.skipif(not find_spec('sklearn'), reason='needs scikit-learn')


def test_split_is_fixed_stratified_and_complete():
    train, test = DATASETS.build({'type': 'Digits'}), DATASETS.build({'type': 'Digits', 'split': 'test'})
    assert (len(train), len(test)) == (1442, 355)
    images, labels = pytest.importorskip('sklearn.datasets').load_digits(return_X_y=True)
    counts, of_test = np.bincount(labels), np.bincount(test.labels)
    assert np.array_equal(np.bincount(train.labels) + of_test, counts)
    assert np.array_equal(of_test, counts // 5)
    for digit in range(10):
        every = np.rint(images[labels == digit] * 255 / 16).reshape(-1, 1, 8, 8)
        assert np.array_equal(test.images[test.labels == digit], every[4::5])
        assert np.array_equal(train.images[train.labels == digit], np.delete(every, slice(4, None, 5), axis=0))
    assert train.metainfo['classes'] == tuple('0123456789')


def test_items_are_uint8_images_over_the_whole_range():
    train = DATASETS.build({'type': 'Digits'})
    assert train[0]['images'].shape == (1, 8, 8)
    assert train[0]['images'].dtype == torch.uint8
    assert (int(train.images.min()), int(train.images.max())) == (0, 255)
    assert len(train.images.unique()) == 17


def test_unknown_split():
    with pytest.raises(ValueError, match="Digits: unknown split 'val'; known: train, test"):
        DATASETS.build({'type': 'Digits', 'split': 'val'})


def test_without_scikit_learn(monkeypatch):
    in_memory._load_digits.cache_clear()
    monkeypatch.setattr(in_memory, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r'Digits: .*scikit-learn.*pip install scikit-learn'):
        DATASETS.build({'type': 'Digits'})
