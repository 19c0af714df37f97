"""The README's examples, run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
README = (ROOT / 'README.md').read_text()


def block_after(text: str) -> str:
    """The code block that follows a text of the README."""
    return re.search(r'```\w+\n(.*?)```', README[README.index(text) :], re.DOTALL).group(1)


def test_a_pruner_in_a_file_of_ones_own(tmp_path):
    mine = tmp_path / 'mine'
    mine.mkdir()
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    for name in ('mine/scaled_mag.py', 'mine/quickstart_scaled_mag.py'):
        (tmp_path / name).write_text(block_after(f'`{name}`:'))
    options = ['train_cfg.max_epochs=1', 'model.network.width=2', 'train_dataloader.dataset.num_samples=64']
    run = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'train.py', 'mine/quickstart_scaled_mag.py', '--cfg-options', *options],
        cwd=tmp_path,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    for part in ('ScaledMag, shot 1 of 1: density 0.3', 'layer3.0.conv2.weight', 'signs flipped', 'Trained 1 epochs'):
        assert part in run.stdout + run.stderr
    assert (tmp_path / 'work_dirs' / 'quickstart_scaled_mag' / 'report.png').exists()


def test_without_configs():
    from pab.pruners import get_masks

    scope: dict = {}
    exec(block_after('Without configs').replace('rounds=100', 'rounds=2'), scope)
    masks = get_masks(scope['net'])
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == total - total * 7 // 10
    scope['net'](torch.randn(2, 3, 32, 32)).sum().backward()
    scope['bop'].step()
    assert int(scope['bop'].last_flips) > 0


@pytest.mark.parametrize('path', sorted(set(re.findall(r'(?:configs|tools)/[\w/.-]+\.(?:py|sh|png)', README))))
def test_every_file_it_names_is_there(path):
    assert (ROOT / path).exists()
