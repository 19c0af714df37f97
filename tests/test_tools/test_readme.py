"""The examples of the README and of docs/, run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text() for path in (ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md')))}


def block_after(page: str, text: str) -> str:
    """The code block that follows a text of a page."""
    return re.search(r'```\w+\n(.*?)```', PAGES[page][PAGES[page].index(text) :], re.DOTALL).group(1)


@pytest.mark.parametrize(
    ('page', 'name', 'printed'),
    [
        ('README.md', 'scaled_mag', 'ScaledMag, shot 1 of 1: density 0.3'),
        ('method.md', 'sign_gradient', 'SynFlow, shot 1 of 1'),
        ('method.md', 'bop_with_reset', '; adaptivity rate 0.01'),
    ],
)
def test_a_part_in_a_file_of_ones_own(tmp_path, page, name, printed):
    mine = tmp_path / 'mine'
    mine.mkdir()
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    for file in (f'mine/{name}.py', f'mine/quickstart_{name}.py'):
        (tmp_path / file).write_text(block_after(page, f'`{file}`:'))
    options = ['train_cfg.max_epochs=1', 'model.network.width=2', 'train_dataloader.dataset.num_samples=64']
    run = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'train.py', f'mine/quickstart_{name}.py', '--cfg-options', *options],
        cwd=tmp_path,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    for part in (printed, 'layer3.0.conv2.weight', 'signs flipped', 'Trained 1 epochs'):
        assert part in run.stdout + run.stderr
    assert 'Exp name' not in run.stdout + run.stderr
    assert (tmp_path / 'work_dirs' / f'quickstart_{name}' / 'report.html').exists()


def test_photographs_of_ones_own(tmp_path):
    for split in ('train', 'val'):
        for label, name in enumerate(('ant', 'bee', 'cat')):
            (tmp_path / 'photos' / split / name).mkdir(parents=True)
            for number in range(2):
                Image.new('RGB', (80, 70), (80 * label, 0, 0)).save(tmp_path / f'photos/{split}/{name}/{number}.jpg')
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    (tmp_path / 'mine/photos.py').write_text(block_after('own_data.md', '`mine/photos.py`:'))
    loaders = [
        f'{part}_dataloader.{key}' for part in ('train', 'val') for key in ('num_workers=0', 'persistent_workers=False')
    ]
    options = ['train_cfg.max_epochs=1', 'default_hooks.prune.pruner.rounds=1', 'default_hooks.report=None', *loaders]
    run = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'train.py', 'mine/photos.py', '--cfg-options', *options],
        cwd=tmp_path,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert 'Epoch(val) [1][1/1]' in run.stdout


def test_without_configs():
    from pab.pruners import get_masks

    scope: dict = {}
    exec(block_after('method.md', '## Without configs').replace('rounds=100', 'rounds=2'), scope)
    masks = get_masks(scope['net'])
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == total - total * 7 // 10
    scope['net'](torch.randn(2, 3, 32, 32)).sum().backward()
    scope['bop'].step()
    assert int(scope['bop'].last_flips) > 0


@pytest.mark.parametrize('page', PAGES)
def test_every_file_it_names_is_there(page):
    named = set(re.findall(r'(?<!mine/)(?:configs|tools|docs|tests)/[\w/.-]+\.(?:py|sh|png|md)', PAGES[page]))
    assert [path for path in named if not (ROOT / path).exists()] == []
