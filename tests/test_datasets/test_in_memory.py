import re

import numpy as np
import pytest
import torch
from mmengine.runner import Runner

from pab.datasets import InMemoryDataset, collate_images

IMAGES = torch.arange(10 * 3 * 2 * 2).reshape(10, 3, 2, 2).to(torch.uint8)
LABELS = torch.arange(10)
CLASSES = [str(label) for label in range(10)]


def make(**subset):
    return InMemoryDataset(IMAGES, LABELS, CLASSES, **subset)


def test_item_and_batch_agree():
    dataset = make()
    items = [dataset[i] for i in (3, 1, 3)]
    batch = dataset.__getitems__([3, 1, 3])
    assert torch.equal(batch['images'], torch.stack([item['images'] for item in items]))
    assert batch['labels'].tolist() == [3, 1, 3] == [item['labels'] for item in items]
    assert torch.equal(batch['images'], IMAGES[[3, 1, 3]])
    assert batch['images'].dtype == torch.uint8 and batch['labels'].dtype == torch.int64


def test_collate_passes_batches_and_stacks_items():
    dataset = make()
    batch = dataset.__getitems__([0, 5])
    assert collate_images(batch) is batch
    stacked = collate_images([dataset[0], dataset[5]])
    assert torch.equal(stacked['images'], batch['images'])
    assert torch.equal(stacked['labels'], batch['labels'])


@pytest.mark.parametrize('num_workers', [0, 1])
def test_loader_of_the_runner(num_workers):
    config = {
        'dataset': make(),
        'batch_size': 4,
        'num_workers': num_workers,
        'sampler': {'type': 'DefaultSampler', 'shuffle': False},
        'collate_fn': {'type': 'collate_images'},
    }
    batches = list(Runner.build_dataloader(config, seed=0))
    assert [len(batch['labels']) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([batch['images'] for batch in batches]), IMAGES)


def test_subsets():
    assert make(num_samples=3).labels.tolist() == [0, 1, 2]
    drawn = make(num_samples=4, sample_seed=7)
    assert drawn.labels.tolist() == np.random.RandomState(7).permutation(10)[:4].tolist()
    chosen = make(indices=[9, 2])
    assert chosen.labels.tolist() == [9, 2]
    assert torch.equal(chosen[0]['images'], IMAGES[9])


@pytest.mark.parametrize(
    ('subset', 'text'),
    [
        ({'num_samples': 0}, r'num_samples must be an integer in 1\.\.10, got 0'),
        ({'num_samples': 11}, r'num_samples must be an integer in 1\.\.10, got 11'),
        ({'num_samples': 0.5}, 'num_samples must be an integer'),
        *(
            ({'indices': wrong}, rf'indices must be different integers in 0\.\.9, got {re.escape(repr(wrong))}')
            for wrong in ([0, 10], [-1], [1, 1], [], [0.5])
        ),
        ({'indices': [0], 'num_samples': 1}, 'indices or num_samples, not both'),
        ({'sample_seed': 1}, 'sample_seed=1 .* only together with num_samples'),
    ],
)
def test_bad_subsets(subset, text):
    with pytest.raises(ValueError, match=f'InMemoryDataset: .*{text}'):
        make(**subset)


def test_a_set_that_lies_on_a_device():
    there = make()
    there.images, there.labels = there.images.to('meta'), there.labels.to('meta')  # a device that every machine has
    batch = there.__getitems__([3, 1])
    assert {batch['images'].device.type, batch['labels'].device.type} == {'meta'}
    assert batch['images'].shape == (2, 3, 2, 2)
    here = make(device='cpu', num_samples=4)
    assert torch.equal(here.__getitems__([3, 1])['images'], IMAGES[[3, 1]])


@pytest.mark.parametrize('device', ['gpu', 'cuda:99'])
def test_a_device_that_cannot_hold_it(device):
    with pytest.raises(ValueError, match=f"InMemoryDataset: device '{device}' cannot be used here: "):
        make(device=device)
