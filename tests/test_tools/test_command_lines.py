"""The tools as a user runs them: what they print, what they refuse, and with which status they end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = [
    'model.network.width=2',
    'train_dataloader.batch_size=32',
    'train_dataloader.dataset.num_samples=64',
    'val_dataloader.dataset.num_samples=32',
    'test_dataloader.dataset.num_samples=32',
    'train_cfg.max_epochs=1',
    'default_hooks.prune.pruner.rounds=2',
    'default_hooks.logger.interval=1',
]


def tool(name, *args, cwd=ROOT, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / 'tools' / name), *map(str, args)],
        cwd=cwd,
        env={**os.environ, 'OMP_NUM_THREADS': '1', **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_train_then_test(tmp_path):
    config = ROOT / 'configs' / 'pab' / 'quickstart.py'
    trained = tool('train.py', config, '--work-dir', tmp_path, '--cfg-options', *TINY)
    assert trained.returncode == 0, trained.stderr
    for part in ('SynFlow', 'layer3.0.conv2.weight', 'signs flipped', 'Trained 1 epochs', 'report.png'):
        assert part in trained.stdout + trained.stderr
    tested = tool('test.py', config, tmp_path / 'epoch_1.pth', '--work-dir', tmp_path / 'test', '--cfg-options', *TINY)
    assert tested.returncode == 0, tested.stderr
    assert 'accuracy/top1' in tested.stdout + tested.stderr


def test_print_config_shows_the_whole_config():
    printed = tool(
        'print_config.py', ROOT / 'configs/pab/r18_cifar10_snip.py', '--cfg-options', 'train_cfg.max_epochs=7'
    )
    assert printed.returncode == 0, printed.stderr
    assert "type='SNIP'" in printed.stdout
    assert 'max_epochs=7' in printed.stdout
    assert "type='PSG'" in printed.stdout


@pytest.mark.parametrize(
    'options, message',
    [
        (['trian_cfg.max_epochs=3'], "nothing reads the key 'trian_cfg'; did you mean train_cfg"),
        (
            ['env_cfg.cudnn_benchmrk=True'],
            "env_cfg: nothing reads the key 'cudnn_benchmrk'; did you mean cudnn_benchmark",
        ),
        (['default_hooks.prune.pruner.type=SinFlow'], 'SynFlow'),
        (['default_hooks.prune.pruner.density=1.5'], r'density must lie in (0, 1], got 1.5'),
        (['model.network.type=ResNet19'], 'CIFARResNet'),
        (['model.converter.input_bits=0'], 'input_bits'),
        (['model.converter.threshold=-1'], 'threshold'),
        (['default_hooks.prune.epoch=50'], 'PruneHook: epoch must be below the number of epochs'),
        (['optim_wrapper.clip_gard.max_norm=1'], 'clip_gard'),
        (['train_dataloader.dataset.type=CIFAR10'], 'cifar-10-batches-py'),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, options, message):
    config = ROOT / 'configs' / 'pab' / 'quickstart.py'
    run = tool(
        'train.py', config, '--work-dir', tmp_path, '--cfg-options', *options, PAB_DATA=str(tmp_path / 'nowhere')
    )
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith('error: ')
    assert message in last
    assert 'Traceback' not in run.stderr


def test_a_config_that_is_not_there():
    run = tool('train.py', 'configs/pab/quikstart.py')
    assert run.returncode == 1
    assert (
        run.stderr.strip()
        == 'error: there is no config configs/pab/quikstart.py; those that come with pab are in configs/pab/'
    )
