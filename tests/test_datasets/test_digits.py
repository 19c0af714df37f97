import sys

import numpy as np
import pytest
import torch

from pab.registry import DATASETS

sklearn_datasets = pytest.importorskip('sklearn.datasets', reason='needs scikit-learn')


def test_split_is_fixed_stratified_and_complete():
    train, test = DATASETS.build({'type': 'Digits'}), DATASETS.build({'type': 'Digits', 'split': 'test'})
    assert (len(train), len(test)) == (1442, 355)
    images, labels = sklearn_datasets.load_digits(return_X_y=True)
    counts, of_test = np.bincount(labels), np.bincount(test.labels)
    assert np.array_equal(np.bincount(train.labels) + of_test, counts)
    assert np.array_equal(of_test, counts // 5)
    # the fifth zero of the file is the first zero of the test set
    fifth_zero = images[np.flatnonzero(labels == 0)[4]].reshape(8, 8)
    first_zero = test.images[test.labels == 0][0, 0].numpy()
    assert np.array_equal(first_zero, np.rint(fifth_zero * 255 / 16))
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
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match=r'Digits: .*scikit-learn.*pip install scikit-learn'):
        DATASETS.build({'type': 'Digits'})
