"""The tools as a user runs them: what they print, what they refuse, and with which status they end."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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


def test_prune_to_a_file_train_from_it_and_resume_with_changes(tmp_path):
    config, file, folder = ROOT / 'configs' / 'pab' / 'quickstart.py', tmp_path / 'pruned.pth', tmp_path / 'run'
    snip = [*TINY, 'default_hooks.prune.pruner.type=SNIP', 'default_hooks.prune.data.num_samples=16']

    def act(name, *args, options=()):
        done = tool(name, config, *args, '--cfg-options', *snip, *options, PAB_COMPILE='0')
        return done.returncode, done.stdout + done.stderr

    status, printed = act('prune.py', '--out', file, '--seed', 3, '--work-dir', tmp_path / 'prune')
    assert status == 0, printed
    pruned = torch.load(file, weights_only=True)
    assert pruned['meta']['seed'] == 3
    assert pruned['pruning']['pruner'] == 'SNIP'
    start = [f'load_from={file}']
    status, printed = act('train.py', '--work-dir', folder, '--seed', 3, '--amp', options=start)
    assert status == 0, printed
    trained = torch.load(folder / 'epoch_1.pth', weights_only=True)
    assert trained['settings']['optim_wrapper']['precision'] == 'bfloat16'
    masks = {name: mask for name, mask in pruned['state_dict'].items() if name.endswith('weight_mask')}
    assert masks
    assert all(torch.equal(trained['state_dict'][name], mask) for name, mask in masks.items())

    more = ['train_cfg.max_epochs=2', 'optim_wrapper.optimizers.bop.threshold=1e-5']
    options = ('--work-dir', folder, '--seed', 3, '--amp', '--resume', '--allow-changes')
    status, printed = act('train.py', *options, options=more)
    assert status == 0, printed
    assert 'Resumed with other settings, as allowed' in printed
    assert (folder / 'epoch_2.pth').is_file()


def test_prune_writes_over_nothing(tmp_path):
    file = tmp_path / 'pruned.pth'
    file.write_text('mine')
    run = tool(
        'prune.py', 'configs/pab/quickstart.py', '--out', file, '--work-dir', tmp_path / 'run', '--cfg-options', *TINY
    )
    assert run.returncode == 1
    assert '--force' in run.stderr
    assert file.read_text() == 'mine'


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
        (['env_cfg.mp_cfg.start_method=fork'], "env_cfg.mp_cfg: nothing reads the key 'start_method'"),
        (['val_evaluator.topk=11'], 'val_evaluator: topk must not exceed the number of classes, 10, got 11'),
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
def test_bad_input_is_one_clear_line(tmp_path, monkeypatch, options, message):
    config = ROOT / 'configs' / 'pab' / 'quickstart.py'
    monkeypatch.setattr('sys.argv', ['train.py', str(config), '--work-dir', str(tmp_path), '--cfg-options', *options])
    monkeypatch.setenv('PAB_DATA', str(tmp_path / 'nowhere'))
    monkeypatch.setattr('sys.path', [*sys.path])
    with pytest.raises(SystemExit) as ended:  # in this process: starting one costs seconds
        runpy.run_path(str(ROOT / 'tools' / 'train.py'), run_name='__main__')
    line = ended.value.code
    assert line.startswith('error: ')
    assert message in line
    assert len(line.splitlines()) == 1


def test_an_error_ends_the_process_with_its_line_and_status(tmp_path):
    run = tool('train.py', 'configs/pab/quickstart.py', '--work-dir', tmp_path, '--cfg-options', 'trian_cfg=3')
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith('error: configs/pab/quickstart.py: ')
    assert 'Traceback' not in run.stderr


def test_a_config_that_is_not_there():
    run = tool('train.py', 'configs/pab/quikstart.py')
    assert run.returncode == 1
    assert (
        run.stderr.strip()
        == 'error: there is no config configs/pab/quikstart.py; those that come with pab are in configs/pab/'
    )
