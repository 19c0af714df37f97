"""From a folder of photographs to an accuracy and a file: configs/pab/folder.py on real ones of five classes."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from pab.datasets import ImageFolder
from tests.launching import ROOT

CLASSES = {'birds': 'n015', 'dogs': 'n0209', 'food': 'n077', 'insects': 'n022', 'reptiles': 'n017'}
KINDS = ['jpg', 'png', 'bmp', 'webp', 'grey.png']
COUNTS = [3, 4, 6, 7, 9]
CONFIG = ROOT / 'configs' / 'pab' / 'folder.py'
OPTIONS = [
    *('train_cfg.max_epochs=2', 'default_hooks.prune.pruner.rounds=2', 'default_hooks.report=None'),
    *('model.network.name=shufflenet_v2_x0_5', 'train_dataloader.batch_size=8', 'visualizer.vis_backends=[]'),
    *(
        f'{part}_dataloader.{key}'
        for part in ('train', 'val', 'test')
        for key in ('num_workers=0', 'persistent_workers=False')
    ),
]
GREY = ['model.input_shape=(1,32,32)', 'data_preprocessor.mean=[0.45]', 'data_preprocessor.std=[0.23]']
UNEQUAL = ['train_dataloader.sampler.type=BalancedSampler', 'model.class_weights=balanced']


@pytest.fixture
def photos(photographs, tmp_path, monkeypatch) -> Path:
    """photos/<class>: files of all kinds and of several sizes, unequal in number."""
    for count, (name, ids) in zip(COUNTS, CLASSES.items(), strict=True):
        (tmp_path / 'photos' / name).mkdir(parents=True)
        for number, path in enumerate(sorted(photographs.glob(f'imagenet/train/{ids}*/*'))[:count]):
            image = Image.open(path).convert('RGB')
            image.thumbnail((40 + 9 * number, 70))
            kind = KINDS[number % len(KINDS)]
            image.convert('L' if 'grey' in kind else 'RGB').save(tmp_path / 'photos' / name / f'{number}.{kind}')
    monkeypatch.setenv('PAB_DATA', str(tmp_path / 'photos'))
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'photos'


@pytest.mark.parametrize(
    'options',
    [
        pytest.param(['model.input_shape=(3,48,48)'], marks=pytest.mark.slow, id='colour'),
        pytest.param([*GREY, *UNEQUAL], marks=pytest.mark.slow, id='grey'),
    ],
)
def test_a_path_is_enough(photos, tool, monkeypatch, options):
    text, status = tool('train.py', CONFIG, '--cfg-options', *OPTIONS, *options)
    assert status == 0, text
    assert 'density 0.3, masks' in text
    file = Path('work_dirs/folder/epoch_2.pth')
    saved = torch.load(file)
    assert saved['meta']['dataset_meta']['classes'] == tuple(sorted(CLASSES))
    assert saved['state_dict']['network.fc.weight'].shape == (5, 1024)
    val = ImageFolder('val', photos, val_share=0.2)
    assert len(val) == 1 + 1 + 1 + 1 + 2
    measured = re.search(r'Epoch\(val\) \[2\].*accuracy/top1: ([\d.]+)', text)[1]
    text, status = tool('test.py', CONFIG, file, '--cfg-options', *OPTIONS, *options)
    assert status == 0, text
    assert f'accuracy/top1: {measured}' in text
    (photos / 'birds').rename(photos.parent / 'birds')  # the network still knows five classes
    text, status = tool('test.py', CONFIG, file, '--cfg-options', *OPTIONS, *options)
    assert status == 0, text
    assert 'accuracy/top1' in text
    text, status = tool('predict.py', file, photos / 'food', '--config', CONFIG, '--cfg-options', *OPTIONS, *options)
    assert status == 0, text
    monkeypatch.setenv('PAB_DATA', str(photos.parent / 'gone'))  # a file needs no photographs
    text, status = tool('compact.py', 'pack', CONFIG, file, 'own.pab', '--cfg-options', *OPTIONS, *options)
    assert status == 0, text
    assert Path('own.pab').stat().st_size < 500_000


@pytest.mark.slow
def test_other_photographs_are_tested_without_those_of_the_training(photos, tool, monkeypatch):
    text, status = tool('train.py', CONFIG, '--cfg-options', *OPTIONS, 'model.input_shape=(3,32,32)')
    assert status == 0, text
    (photos.parent / 'new').mkdir()
    (photos / 'dogs').rename(photos.parent / 'new' / 'dogs')
    (photos.parent / 'new').rename(photos / 'test')
    held = ['train_dataloader.dataset.data_root=nowhere', 'test_dataloader.dataset.split=test']
    classes = f'test_dataloader.dataset.classes={",".join(sorted(CLASSES))}'
    options = [*OPTIONS, 'model.input_shape=(3,32,32)', *held, classes]
    text, status = tool('test.py', CONFIG, 'work_dirs/folder/epoch_2.pth', '--cfg-options', *options)
    assert status == 0, text
    assert 'accuracy/top1' in text
