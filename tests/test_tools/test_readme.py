"""The examples of the README and of docs/, run as they stand there."""

import contextlib
import io
import os
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from pab import compact
from pab.pruners import apply_masks_
from pab.registry import MODELS
from tests.small_run import run_in_child

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text() for path in (ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md')))}


def block_after(page: str, text: str) -> str:
    """The code block that follows a text of a page."""
    return re.search(r'```\w+\n(.*?)```', PAGES[page][PAGES[page].index(text) :], re.DOTALL).group(1)


def write_blocks(folder: Path, page: str, *files: str) -> None:
    """Write the files of a page into a folder's ``mine``, beside the configs of pab."""
    (folder / 'mine').mkdir()
    (folder / 'configs').symlink_to(ROOT / 'configs')
    for file in files:
        (folder / file).write_text(block_after(page, f'`{file}`:'))


RESNET = 'layer3.0.conv2.weight'


@pytest.mark.parametrize(
    ('page', 'name', 'printed'),
    [
        ('method.md', 'scaled_mag', ['ScaledMag, shot 1 of 1: density 0.3', RESNET]),
        ('method.md', 'sign_gradient', ['SynFlow, shot 1 of 1', RESNET]),
        ('method.md', 'bop_with_reset', ['; adaptivity rate 0.01', RESNET]),
        ('method.md', 'two_stages', [r'conv1.weight  +\d+ +18 ', r'conv2.weight  +\d+ +72 ', r'all +27 +90 +0\.3000']),
        ('method.md', 'bars', [r'Epoch\(train\) +\[1\]\[1/1\]', RESNET]),
        ('method.md', 'positive_share', [r'Epoch 1: \d\d\.\d% of the kept weights are positive', RESNET]),
    ],
)
def test_a_part_in_a_file_of_ones_own(tmp_path, page, name, printed):
    write_blocks(tmp_path, page, f'mine/{name}.py', f'mine/quickstart_{name}.py')
    options = ['train_cfg.max_epochs=1', 'model.network.width=2', 'train_dataloader.dataset.num_samples=64']
    options += ['default_hooks.logger.interval=1', 'default_hooks.prune.pruner.rounds=2']
    reported = name == 'bop_with_reset'  # a report takes seconds
    options += [] if reported else ['default_hooks.report=None']
    status, text = run_in_child(_train, tmp_path, [f'mine/quickstart_{name}.py', '--cfg-options', *options])
    assert status == 0, text
    for part in (*printed, 'signs flipped', *['Trained 1 epochs'] * reported):
        assert re.search(part, text), f'{part} is not in\n{text}'
    assert 'Exp name' not in text
    folder = tmp_path / 'work_dirs' / f'quickstart_{name}'
    assert (folder / 'epoch_1.pth').exists()
    assert (folder / 'report.html').exists() == reported


@pytest.mark.parametrize('file', [pytest.param('mine/photos.py', marks=pytest.mark.slow), 'mine/photos_mixed.py'])
def test_photographs_of_ones_own(tmp_path, file):
    for split in ('train', 'val'):
        for label, name in enumerate(('ant', 'bee', 'cat')):
            (tmp_path / 'photos' / split / name).mkdir(parents=True)
            for number in range(2):
                Image.new('RGB', (80, 70), (80 * label, 0, 0)).save(tmp_path / f'photos/{split}/{name}/{number}.jpg')
    write_blocks(tmp_path, 'own_data.md', file)
    loaders = [
        f'{part}_dataloader.{key}' for part in ('train', 'val') for key in ('num_workers=0', 'persistent_workers=False')
    ]
    options = ['train_cfg.max_epochs=1', 'default_hooks.prune.pruner.rounds=1', 'default_hooks.report=None', *loaders]
    options += ['model.network.name=shufflenet_v2_x0_5']
    options += [f'{part}_dataloader.dataset.data_root=photos' for part in ('train', 'val', 'test')]
    status, text = run_in_child(_train, tmp_path, [file, '--cfg-options', *options])
    assert status == 0, text
    assert 'Epoch(val) [1][1/1]' in text


def test_without_configs():
    from pab.pruners import get_masks

    scope: dict = {}
    text = block_after('method.md', '## Without configs').replace('rounds=100', 'rounds=2')
    for large, small in (
        ('torchvision.models import resnet18', 'pab.models import CIFARResNet'),
        ('resnet18(', 'CIFARResNet(8, '),
    ):
        assert large in text
        text = text.replace(large, small)
    exec(text, scope)
    masks = get_masks(scope['net'])
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == total - total * 7 // 10
    scope['net'](torch.randn(2, 3, 32, 32)).sum().backward()
    scope['bop'].step()
    assert int(scope['bop'].last_flips) > 0


def test_plain_pytorch(tmp_path, monkeypatch):
    with torch.device('meta'):
        model = MODELS.build(dict(type='ImageClassifier', network=dict(type='TorchvisionModel', name='resnet18')))
    model = model.to_empty(device='cpu')
    with torch.no_grad():
        for value in model.state_dict().values():
            value.fill_(1)
        model.network.conv1.weight.uniform_()
        apply_masks_(model, {'network.conv1.weight': model.network.conv1.weight > 0.5})
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'epoch_180.pth')
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(block_after('files.md', '## Plain PyTorch'), scope)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(scope['net'](images), model.eval()(images))


def test_predictions_in_python(tmp_path, monkeypatch, capsys):
    model = MODELS.build(dict(type='CIFARResNet', depth=8, width=2, in_channels=1))
    known = dict(preprocessing=dict(mean=[0.3], std=[0.38]), input_shape=(1, 8, 8), classes=list('abcdefghij'))
    network = dict(type='CIFARResNet', depth=8, width=2, in_channels=1)
    compact.save(model, tmp_path / 'quickstart.pab', network=network, seed=None, signs=(), **known)
    (tmp_path / 'photos').mkdir()
    for name in ('photo.png', 'photos/a.png'):
        Image.new('RGB', (30, 20)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    exec(block_after('runs.md', 'In Python, both take the same files'), {})
    printed = capsys.readouterr().out
    assert 'photo.png ((' in printed
    assert "'mean': [0.3]" in printed


def _train(folder, arguments):
    """Run the tool in a folder, in this process, and return what it printed."""
    os.chdir(folder)
    sys.argv, printed = ['train.py', *arguments], io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        runpy.run_path(str(ROOT / 'tools' / 'train.py'), run_name='__main__')
    return printed.getvalue()


@pytest.mark.parametrize('page', PAGES)
def test_every_file_it_names_is_there(page):
    named = set(re.findall(r'(?<!mine/)(?:configs|examples|tools|docs|tests)/[\w/.-]+\.(?:py|sh|png|md)', PAGES[page]))
    assert [path for path in named if not (ROOT / path).exists()] == []
