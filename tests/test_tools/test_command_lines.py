"""The tools as a user runs them: what they print, what they refuse, and with which status they end."""

import itertools
import runpy
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / 'configs' / 'pab' / 'quickstart.py')
RUNS = itertools.count()
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


@pytest.fixture
def tool(monkeypatch, capfd):
    """A function: script and arguments -> what it printed, and how it ended: 0, or what ``sys.exit`` was given.

    It runs in this process: starting another costs seconds. That the scripts work in one of their own, the tests of the
    README and of jobs show.
    """

    def run(name, *args):
        if '--cfg-options' in args:
            # mmengine names a run by the second it starts in, and runs of one name share their log
            args = (*args, f'experiment_name=run_{next(RUNS)}')
        monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
        monkeypatch.setattr(sys, 'path', [*sys.path])
        status = 0
        try:
            runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')
        except SystemExit as ended:
            status = ended.code
        return ''.join(capfd.readouterr()), status

    return run


def test_prune_to_a_file_train_from_it_resume_with_changes_and_test(tool, tmp_path):
    file, folder = tmp_path / 'pruned.pth', tmp_path / 'run'
    snip = [*TINY, 'default_hooks.prune.pruner.type=SNIP', 'default_hooks.prune.data.num_samples=16']

    def act(name, *args, options=()):
        printed, status = tool(name, QUICKSTART, *args, '--cfg-options', *snip, *options)
        assert status == 0, printed
        return printed

    act('prune.py', '--out', file, '--seed', 3, '--work-dir', tmp_path / 'prune')
    pruned = torch.load(file, weights_only=True)
    assert pruned['meta']['seed'] == 3
    assert pruned['pruning']['pruner'] == 'SNIP'
    start = [f'load_from={file}']
    act('train.py', '--work-dir', folder, '--seed', 3, '--amp', options=start)
    trained = torch.load(folder / 'epoch_1.pth', weights_only=True)
    assert trained['settings']['optim_wrapper']['precision'] == 'bfloat16'
    masks = {name: mask for name, mask in pruned['state_dict'].items() if name.endswith('weight_mask')}
    assert masks
    assert all(torch.equal(trained['state_dict'][name], mask) for name, mask in masks.items())

    more = ['train_cfg.max_epochs=2', 'optim_wrapper.optimizers.bop.threshold=1e-5']
    resumed = act('train.py', '--work-dir', folder, '--seed', 3, '--amp', '--resume', '--allow-changes', options=more)
    assert 'Resumed with other settings, as allowed' in resumed
    tested = act('test.py', folder / 'epoch_2.pth', '--work-dir', tmp_path / 'test')
    assert 'accuracy/top1' in tested


def test_prune_writes_over_nothing(tool, tmp_path):
    file = tmp_path / 'pruned.pth'
    file.write_text('mine')
    _, status = tool('prune.py', QUICKSTART, '--out', file, '--work-dir', tmp_path / 'run', '--cfg-options', *TINY)
    assert '--force' in status
    assert file.read_text() == 'mine'


def test_print_config_shows_the_whole_config(tool):
    config = ROOT / 'configs/pab/r18_cifar10_snip.py'
    printed, status = tool('print_config.py', config, '--cfg-options', 'train_cfg.max_epochs=7')
    assert status == 0
    for part in ("type='SNIP'", 'max_epochs=7', "type='PSG'"):
        assert part in printed


@pytest.mark.parametrize(
    'options, message',
    [
        (['trian_cfg.max_epochs=3'], "nothing reads the key 'trian_cfg'; did you mean train_cfg"),
        (
            ['env_cfg.cudnn_benchmrk=True'],
            "env_cfg: nothing reads the key 'cudnn_benchmrk'; did you mean cudnn_benchmark",
        ),
        (['env_cfg.mp_cfg.start_method=fork'], "env_cfg.mp_cfg: nothing reads the key 'start_method'"),
        (['val_evaluator.topk=11'], 'Accuracy: topk must not exceed the number of classes, 10, got 11'),
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
def test_bad_input_is_one_clear_line(tool, tmp_path, monkeypatch, options, message):
    monkeypatch.setenv('PAB_DATA', str(tmp_path / 'nowhere'))
    _, line = tool('train.py', QUICKSTART, '--work-dir', tmp_path, '--cfg-options', *options)
    assert line.startswith('error: ')
    assert message in line
    assert len(line.splitlines()) == 1


def test_a_config_that_is_not_there(tool):
    _, line = tool('train.py', 'configs/pab/quikstart.py')
    assert line == 'error: there is no config configs/pab/quikstart.py; those that come with pab are in configs/pab/'
