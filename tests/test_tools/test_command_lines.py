"""The tools as a user runs them: what they print, what they refuse, and with which status they end."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from pab.registry import MODELS

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


@pytest.fixture
def here(monkeypatch):
    """A function that runs a tool in this process, as starting one costs seconds."""
    monkeypatch.setattr('sys.path', [*sys.path])

    def run(name, *args):
        monkeypatch.setattr('sys.argv', [name, *map(str, args)])
        runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')

    return run


def test_train_then_test(tmp_path):
    config = ROOT / 'configs' / 'pab' / 'quickstart.py'
    trained = tool('train.py', config, '--work-dir', tmp_path, '--cfg-options', *TINY)
    assert trained.returncode == 0, trained.stderr
    for part in ('SynFlow', 'layer3.0.conv2.weight', 'signs flipped', 'Trained 1 epochs', 'report.png'):
        assert part in trained.stdout + trained.stderr
    tested = tool('test.py', config, tmp_path / 'epoch_1.pth', '--work-dir', tmp_path / 'test', '--cfg-options', *TINY)
    assert tested.returncode == 0, tested.stderr
    assert 'accuracy/top1' in tested.stdout + tested.stderr


def test_prune_to_a_file_train_from_it_and_resume_with_changes(tmp_path, here):
    config, file, folder = ROOT / 'configs' / 'pab' / 'quickstart.py', tmp_path / 'pruned.pth', tmp_path / 'run'
    snip = [*TINY, 'default_hooks.prune.pruner.type=SNIP', 'default_hooks.prune.data.num_samples=16']

    def act(name, *args, options=()):
        done = tool(name, config, *args, '--cfg-options', *snip, *options, PAB_COMPILE='0')
        return done.returncode, done.stdout + done.stderr

    here('prune.py', config, '--out', file, '--seed', 3, '--work-dir', tmp_path / 'prune', '--cfg-options', *snip)
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


def test_prune_the_network_of_a_file(tmp_path, here):
    """Nothing of the initial weights is left; a pruned network is refused, and a file that is there is kept."""
    config = ROOT / 'configs' / 'pab' / 'quickstart.py'
    given, file = tmp_path / 'given.pth', tmp_path / 'pruned.pth'

    def prune(source, out):
        options = [*TINY, f'load_from={source}', 'default_hooks.ema.type=EMAHook']
        here('prune.py', config, '--out', out, '--work-dir', tmp_path / 'run', '--cfg-options', *options)

    cfg = Config.fromfile(str(config))
    cfg.model.network.width = 2
    model = MODELS.build(cfg.model)
    model.init_weights()
    torch.save({'state_dict': {name: value * 2 for name, value in model.state_dict().items()}}, given)
    prune(given, file)
    pruned = torch.load(file)
    assert pruned['meta']['load_from'] == str(given)
    for name, weight in model.named_parameters():
        mask = pruned['state_dict'].get(f'{name}_mask', torch.tensor(True))
        assert torch.equal(pruned['state_dict'][name], 2 * weight * mask)
    for source, out, message in (
        (file, tmp_path / 'again.pth', r'prune: load_from must be this network, without masks so far; .*weight_mask'),
        (given, file, 'pruned.pth exists; choose another file, or pass --force'),
        (tmp_path / 'none.pth', tmp_path / 'again.pth', 'there is no'),
    ):
        with pytest.raises(SystemExit, match=message):
            prune(source, out)


def test_print_config_shows_the_whole_config(here, capsys):
    here('print_config.py', ROOT / 'configs/pab/r18_cifar10_snip.py', '--cfg-options', 'train_cfg.max_epochs=7')
    printed = capsys.readouterr().out
    assert "type='SNIP'" in printed
    assert 'max_epochs=7' in printed
    assert "type='PSG'" in printed


@pytest.mark.parametrize(
    'option, message',
    [
        ('trian_cfg.max_epochs=3', "config: nothing reads the key 'trian_cfg'; did you mean train_cfg"),
        (
            'env_cfg.cudnn_benchmrk=True',
            "env_cfg: nothing reads the key 'cudnn_benchmrk'; did you mean cudnn_benchmark",
        ),
        ('env_cfg.mp_cfg.start_method=fork', "env_cfg.mp_cfg: nothing reads the key 'start_method'"),
        ('env_cfg.dist_cfg.timout=60', "env_cfg.dist_cfg: nothing reads the key 'timout'; did you mean timeout"),
        (
            'model_wrapper_cfg.static=True',
            "model_wrapper_cfg: nothing reads the key 'static'; did you mean static_graph",
        ),
        ('randomness.sed=1', "randomness: nothing reads the key 'sed'; did you mean seed"),
        ('train_cfg.max_epochs=0', 'train_cfg: max_epochs must be an integer >= 1, got 0'),
        ('train_cfg.max_epoch=3', "train_cfg: nothing reads the key 'max_epoch'; did you mean max_epochs"),
        (
            'train_dataloader.batchsize=3',
            "train_dataloader: nothing reads the key 'batchsize'; did you mean batch_size",
        ),
        ('train_dataloader.sampler.shufle=True', "train_dataloader.sampler: nothing reads the key 'shufle'"),
        ('val_evaluator.topp=2', "val_evaluator: nothing reads the key 'topp'; did you mean topk"),
        ('param_scheduler.sgd.0.gama=0.1', "param_scheduler.sgd[0]: nothing reads the key 'gama'; did you mean gamma"),
        ('optim_wrapper.optimizers.sgd.rate=1', 'optim_wrapper.optimizers.sgd: nothing reads the key'),
        (
            'default_hooks.logger.intervl=3',
            "default_hooks.logger: nothing reads the key 'intervl'; did you mean interval",
        ),
        (
            'default_hooks.prune.pruner.round=10',
            "hooks.prune.pruner: nothing reads the key 'round'; did you mean rounds",
        ),
        ('default_hooks.prun.pruner.round=10', 'default_hooks.prun has no type'),
        (
            'default_hooks.prune=SynFlow',
            "default_hooks.prune is a group of settings, got 'SynFlow'; set one of default_",
        ),
        ('model=3', 'model is a group of settings, got 3; set one of model.type, model.init, '),
        ('model.network.type.x=3', 'You may set `_delete_=True`'),
        ('novalue', "error: --cfg-options takes KEY=VALUE, such as train_cfg.max_epochs=8, got 'novalue'"),
        ('param_scheduler.sgd.0.milestones=[1,2', "got 'param_scheduler.sgd.0.milestones=[1,2'"),
        ('val_evaluator.topk=11', 'val_evaluator: topk must not exceed the number of classes, 10, got 11'),
        ('default_hooks.prune.pruner.type=SinFlow', 'SynFlow'),
        ('default_hooks.prune.pruner.density=1.5', r'density must lie in (0, 1], got 1.5'),
        ('model.network.type=ResNet19', 'CIFARResNet'),
        ('model.converter.input_bits=0', 'input_bits'),
        ('model.converter.threshold=-1', 'threshold'),
        ('default_hooks.prune.epoch=50', 'PruneHook: epoch must be below the number of epochs'),
        ('optim_wrapper.clip_gard.max_norm=1', 'clip_gard'),
        ('train_dataloader.dataset.type=CIFAR10', 'cifar-10-batches-py'),
        ('train_dataloader.batch_size=0', 'ValueError: batch_size should be a positive integer'),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, monkeypatch, here, option, message):
    monkeypatch.setenv('PAB_DATA', str(tmp_path / 'nowhere'))
    with pytest.raises(SystemExit) as ended:
        here('train.py', ROOT / 'configs/pab/quickstart.py', '--work-dir', tmp_path, '--cfg-options', option)
    line = ended.value.code
    assert line.startswith('error: ')
    assert message in line
    assert len(line.splitlines()) == 1
    from_elsewhere = option.startswith(('model.network.type.x', 'train_dataloader.batch_size'))
    assert line.endswith('(PAB_TRACEBACK=1 shows where)') == from_elsewhere  # pab's own say what to do


@pytest.mark.parametrize('where', ['config', 'run'])
def test_a_traceback_on_request(tmp_path, monkeypatch, here, where):
    option = 'model.network.depht=3' if where == 'config' else 'default_hooks.prune.pruner.density=1.5'
    monkeypatch.setenv('PAB_TRACEBACK', '1')
    with pytest.raises(ValueError, match=r'depht|density'):
        here('train.py', ROOT / 'configs/pab/quickstart.py', '--work-dir', tmp_path, '--cfg-options', option)


def test_an_error_ends_the_process_with_its_line_and_status(tmp_path):
    run = tool('train.py', 'configs/pab/quickstart.py', '--work-dir', tmp_path, '--cfg-options', 'trian_cfg=3')
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith('error: configs/pab/quickstart.py: ')
    assert 'Traceback' not in run.stderr


def test_a_config_that_is_not_there(here):
    with pytest.raises(SystemExit, match=r'error: there is no config quikstart.py; those .* are in configs/pab/'):
        here('train.py', 'quikstart.py')
