"""Data sets of torchvision by name."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from pab.datasets import BalancedSampler, EpochSampler, TorchvisionDataset, class_names, number_classes_
from pab.registry import DATASETS, RUNNERS
from tests.small_run import small_config

FAKE = dict(size=12, image_size=[3, 9, 7], num_classes=4)


class Own(datasets.VisionDataset):
    """Stands for a data set of torchvision: six images of mode ``mode`` with ``targets``, and names."""

    classes = [('ant', 'pismire'), 'bee', 'cat']

    def __init__(self, root, mode='L', targets=(0, 1, 2, 1, 1, -1), download=False):
        super().__init__(root)
        self.mode, self.targets = mode, list(targets)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return Image.new(self.mode, (4, 5)), self.targets[index]


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setattr('pab.datasets.torchvision.NAMES', ['Own'])
    monkeypatch.setattr(datasets, 'Own', Own, raising=False)


def test_items_are_those_of_torchvision():
    dataset = DATASETS.build(dict(type='TorchvisionDataset', name='FakeData', arguments=FAKE))
    theirs = datasets.FakeData(**FAKE)
    assert len(dataset) == 12
    for index in (0, 5, -1):
        image, label = theirs[index % 12]
        item = dataset[index]
        assert torch.equal(item['images'], torch.from_numpy(np.array(image)).permute(2, 0, 1))
        assert item['labels'] == int(label)
    assert class_names(dataset) == ('0', '1', '2', '3')
    with pytest.raises(IndexError):
        dataset[12]


def test_transforms_draw_from_the_seed_of_the_index():
    crop = [dict(type='RandomCrop', size=5)]
    dataset = TorchvisionDataset('FakeData', FAKE, crop)
    first, again = ([dataset[index]['images'] for index in EpochSampler(dataset, seed=3)] for _ in range(2))
    assert first[0].shape == (3, 5, 5)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize(('mode', 'channels'), [('L', 1), ('RGB', 3), ('P', 3), ('RGBA', 3), ('1', 3)])
def test_images_are_grey_or_rgb(own, mode, channels):
    assert TorchvisionDataset('Own', dict(mode=mode))[0]['images'].shape == (channels, 5, 4)


def test_names_and_labels(own):
    dataset = TorchvisionDataset('Own')
    assert class_names(dataset) == ('ant, pismire', 'bee', 'cat')
    assert dataset.labels.tolist() == [0, 1, 2, 1, 1, -1]
    number_classes_(dataset, ['dog', 'cat', 'bee', 'ant, pismire'], 'val', 'train')
    assert dataset.labels.tolist() == [3, 2, 1, 2, 2, -1] == [dataset[i]['labels'] for i in range(6)]
    assert class_names(dataset) == ('dog', 'cat', 'bee', 'ant, pismire')
    assert 5 not in list(BalancedSampler(dataset, seed=0))
    assert class_names(TorchvisionDataset('Own', classes=['a', 'b', 'c'])) == ('a', 'b', 'c')
    with pytest.raises(ValueError, match='TorchvisionDataset: Own: has the label 2, and classes names 2, from 0 on'):
        TorchvisionDataset('Own', classes=['a', 'b'])


def test_the_root_is_that_of_the_environment(own, monkeypatch):
    monkeypatch.setenv('PAB_DATA', '/somewhere')
    assert TorchvisionDataset('Own')._data.root == '/somewhere'
    assert TorchvisionDataset('Own', dict(root='here'))._data.root == 'here'


def test_only_the_main_process_downloads(own, monkeypatch):
    made = []
    init = Own.__init__
    monkeypatch.setattr(Own, '__init__', lambda self, root, download=False: made.append('data') or init(self, root))
    monkeypatch.setattr('pab.datasets.torchvision.barrier', lambda: made.append('barrier'))
    for is_main, order in ((True, ['data', 'barrier', 'data']), (False, ['barrier', 'data'])):
        made.clear()
        monkeypatch.setattr('pab.datasets.torchvision.is_main_process', lambda is_main=is_main: is_main)
        TorchvisionDataset('Own', dict(download=True))
        assert made == order


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        (dict(name='MNISTT'), ValueError, "unknown name 'MNISTT'; did you mean MNIST or"),
        (dict(name='FakeData', arguments=dict(sise=3)), ValueError, "cannot be built with .*'sise'"),
        (dict(name='FakeData', arguments=dict(size=0)), ValueError, 'TorchvisionDataset: FakeData: there is no image'),
        (dict(name='MNIST', arguments=dict(root='nowhere')), OSError, r'MNIST cannot be built with .*download=True'),
        (dict(name='STL10', arguments=dict(split='tain')), ValueError, "STL10 cannot be built with .*'tain'"),
        (dict(name='FakeData', arguments=dict(num_classes=1)), ValueError, 'needs two classes or more'),
    ],
)
def test_what_cannot_be_built(arguments, error, message):
    with pytest.raises(error, match=message):
        TorchvisionDataset(**arguments)


def test_what_is_no_classification(own):
    with pytest.raises(ValueError, match='Own: items must be an image and its class, got Image and'):
        TorchvisionDataset('Own', dict(targets=['ant', 'bee']))


def test_a_run_on_a_data_set_of_torchvision(tmp_path):
    transforms = [dict(type='Grayscale'), dict(type='RandomCrop', size=6)]
    dataset = dict(_delete_=True, type='TorchvisionDataset', name='FakeData', arguments=FAKE, transforms=transforms)
    loaders = {f'{part}_dataloader__dataset': dict(dataset) for part in ('train', 'val', 'test')}
    runner = RUNNERS.build(small_config(tmp_path, train_cfg__max_epochs=1, default_hooks__prune__epoch=0, **loaders))
    runner.train()
    assert runner.message_hub.get_scalar('train/loss').data[0].size == 2
    assert runner.message_hub.get_scalar('val/accuracy/top1').current() <= 100
