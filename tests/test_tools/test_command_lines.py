"""The tools as a user runs them: output, refusals, and the status they end with."""

import functools
import itertools
import json
import os
import re
import signal
import sys
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from pab.__main__ import main
from pab.command import end_without_readers
from pab.contrib import sparse
from pab.registry import MODELS
from pab.run.launch import load_config

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
    'default_hooks.report=None',
]


@pytest.fixture
def tool(tool):
    """The tool, with a name for each run: mmengine names runs by the second, and those of one name share their log."""

    def run(name, *args):
        named = [f'experiment_name=run_{next(RUNS)}'] if '--cfg-options' in args else []
        return tool(name, *args, *named)

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

    more = ['train_cfg.max_epochs=2', 'optim_wrapper.optimizers.signs.threshold=1e-5']
    resumed = act('train.py', '--work-dir', folder, '--seed', 3, '--amp', '--resume', '--allow-changes', options=more)
    assert 'Resumed with other settings, as allowed' in resumed
    tested = act('test.py', folder / 'epoch_2.pth', '--work-dir', tmp_path / 'test')
    assert 'accuracy/top1' in tested


def test_prune_the_network_of_a_file(tool, tmp_path):
    """Nothing of the initial weights is left; a pruned network is refused, and a file that is there is kept."""
    given, file = tmp_path / 'given.pth', tmp_path / 'pruned.pth'

    def prune(source, out):
        options = [*TINY, f'load_from={source}', 'default_hooks.ema.type=EMAHook']
        return tool('prune.py', QUICKSTART, '--out', out, '--work-dir', tmp_path / 'run', '--cfg-options', *options)[1]

    cfg = Config.fromfile(QUICKSTART)
    cfg.model.network.width = 2
    model = MODELS.build(cfg.model)
    model.init_weights()
    torch.save({'state_dict': {name: value * 2 for name, value in model.state_dict().items()}}, given)
    assert prune(given, file) == 0
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
        assert re.search(message, prune(source, out))


def test_evaluate_on_sparse_kernels(tool, tmp_path, monkeypatch):
    """Here the compressed copy of a weight is the weight itself; the numbers are those of bfloat16."""
    file, pattern = tmp_path / 'pruned.pth', "default_hooks.prune.pruner.prunable=['Linear']"
    options = ['--cfg-options', *TINY, pattern, 'default_hooks.prune.pruner.density=0.5']
    made, status = tool('prune.py', QUICKSTART, '--out', file, *options, 'default_hooks.prune.pruner.scope=2:4')
    assert status == 0, made
    monkeypatch.setattr(sparse, 'missing_support', lambda: '2:4 kernels need something else')
    assert tool('test.py', QUICKSTART, file, '--sparse')[1] == 'error: --sparse: 2:4 kernels need something else'
    monkeypatch.setattr(sparse, 'missing_support', lambda: None)
    used = functools.partial(sparse.use_sparse_kernels_, compress=lambda weight: weight)
    monkeypatch.setattr(sparse, 'use_sparse_kernels_', used)
    printed, status = tool('test.py', QUICKSTART, file, '--sparse', '--work-dir', tmp_path / 'test', *options)
    assert status == 0, printed
    assert re.search(r'1 of \d+ layers run on 2:4 kernels\n', printed)
    assert re.search(r'conv1 +dense: a 3x3 convolution is no matrix product\n', printed)
    assert re.search(r'linear +sparse\n', printed)
    assert 'accuracy/top1' in printed


def test_print_config_shows_the_whole_config(tool):
    config = ROOT / 'configs/pab/r18_cifar10_snip.py'
    printed, status = tool('print_config.py', config, '--cfg-options', 'train_cfg.max_epochs=7')
    assert status == 0
    for part in ("type='SNIP'", 'max_epochs=7', "type='PSG'"):
        assert part in printed


@pytest.fixture
def analyze(tool):
    """A function: arguments and options -> what tools/analyze.py printed for the small run, and how it ended."""
    return lambda *args, options=(): tool('analyze.py', QUICKSTART, *args, '--cfg-options', *TINY, *options)


NOISE = 'The pruner reads images. This one read noise'


def test_analyze_draws_and_keeps_files(analyze, tmp_path):
    picture, numbers = tmp_path / 'd.png', tmp_path / 'costs.json'
    printed, status = analyze('--picture', picture, '--json', numbers)
    assert status == 0
    assert picture.read_bytes()[1:4] == b'PNG'
    assert re.search(r'layer3.0.shortcut.0 +\d/8 +128 +\d+ +\d+   64, 28\n', printed)
    assert len(json.loads(numbers.read_text())['structure']) == 10
    assert re.search(r'd.png exists; choose another file', analyze('--picture', picture)[1])
    assert NOISE not in printed


@pytest.mark.usefixtures('untraced')
def test_analyze_tells_of_noise_and_of_what_it_cannot_draw(analyze, tmp_path):
    assert NOISE in analyze(options=['default_hooks.prune.pruner.type=SNIP'])[0]
    assert 'has no pruned layer' in analyze('--picture', tmp_path / 'e.png', options=['default_hooks.prune=None'])[1]
    assert 'input_shape must be (channels, height, width), got 3' in analyze(options=['model.input_shape=3'])[1]


@pytest.mark.usefixtures('untraced')
def test_analyze_assumes_classes_that_only_data_say(tool, tmp_path, monkeypatch):
    monkeypatch.setenv('PAB_DATA', str(tmp_path / 'nowhere'))
    network = "dict(_delete_=True, type='CIFARResNet', depth=8, width=2, num_classes='auto')"
    config = tmp_path / 'own.py'
    config.write_text(
        f"_base_ = ['{ROOT}/configs/pab/folder.py']\n"
        f'model = dict(network={network}, input_shape=(3, 8, 8))\ndefault_hooks = dict(prune=None)\n'
    )
    printed, status = tool('analyze.py', config)
    assert status == 0, printed
    assert 'The training data, which say the number of classes, are not here; 10 are assumed.' in printed
    assert re.search(r'^linear +Linear +10x8 ', printed, re.MULTILINE)
    printed, _ = tool('analyze.py', config, '--cfg-options', 'model.network.num_classes=3')
    assert 'assumed' not in printed
    assert re.search(r'^linear +Linear +3x8 ', printed, re.MULTILINE)
    assert "num_classes='auto'" in tool('print_config.py', config)[0]


@pytest.mark.parametrize('words', [['config', '--list'], ['config', '--help'], ['--help']])
def test_a_reader_that_has_gone_ends_a_command_quietly(words, monkeypatch, capfd):
    monkeypatch.setattr(sys, 'argv', ['pab', *words])
    with no_reader(monkeypatch), pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 128 + signal.SIGPIPE
    assert capfd.readouterr().err == ''


def test_a_training_goes_on_without_readers(monkeypatch):
    with no_reader(monkeypatch):
        end_without_readers('train')
        for line in range(3):
            print(line, flush=True)


@contextmanager
def no_reader(monkeypatch):
    """Make standard output a pipe whose other end is closed."""
    read, write = os.pipe()
    os.close(read)
    with monkeypatch.context() as patch, os.fdopen(write, 'w') as file:
        patch.setattr(sys, 'stdout', file)
        yield
        sys.stdout.close()


@pytest.fixture
def refusal(tool, tmp_path, monkeypatch):
    """A function: options -> the one line by which tools/train.py refuses them."""
    monkeypatch.setenv('PAB_DATA', str(tmp_path / 'nowhere'))

    def refusal(*options):
        _, line = tool('train.py', QUICKSTART, '--work-dir', tmp_path, '--cfg-options', *options)
        assert line.startswith('error: ')
        assert len(line.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []
        return line

    return refusal


@pytest.mark.parametrize(
    ('group', 'key', 'hint'),
    [
        ('env_cfg', 'cudnn_benchmrk', 'did you mean cudnn_benchmark'),
        ('env_cfg.mp_cfg', 'start_method', ''),
        ('env_cfg.dist_cfg', 'timout', 'did you mean timeout'),
        ('model_wrapper_cfg', 'static', 'did you mean static_graph'),
        ('randomness', 'sed', 'did you mean seed'),
        ('train_cfg', 'max_epoch', 'did you mean max_epochs'),
        ('train_dataloader', 'batchsize', 'did you mean batch_size'),
        ('train_dataloader.sampler', 'shufle', ''),
        ('val_evaluator', 'topp', 'did you mean topk'),
        ('param_scheduler.sgd.0', 'gama', 'did you mean gamma'),
        ('optim_wrapper.optimizers.sgd', 'rate', ''),
        ('default_hooks.logger', 'intervl', 'did you mean interval'),
        ('default_hooks.prune.pruner', 'round', 'did you mean rounds'),
    ],
)
def test_a_key_that_nothing_reads_is_named(refusal, group, key, hint):
    line, where = refusal(f'{group}.{key}=1'), group.replace('.0', '[0]')
    assert f'{where}: nothing reads the key {key!r}; {hint}' in line
    assert 'PAB_TRACEBACK' not in line


@pytest.mark.parametrize(
    'option, message',
    [
        ('trian_cfg.max_epochs=3', "config: nothing reads the key 'trian_cfg'; did you mean train_cfg"),
        ('train_cfg.max_epochs=0', 'train_cfg.max_epochs must be an integer >= 1, got 0'),
        ('default_hooks.prun.pruner.round=10', 'default_hooks.prun has no type'),
        (
            'default_hooks.prune=SynFlow',
            "default_hooks.prune is a group of settings, got 'SynFlow'; set one of default_",
        ),
        ('model=3', 'model is a group of settings, got 3; set one of model.type, model.init, '),
        ('model.network.type.x=3', 'You may set `_delete_=True`'),
        ('randomness.seed=x', "randomness.seed must be an integer in 0..4294967295, or None to draw one, got 'x'"),
        ('randomness.seed=-1', 'randomness.seed must be an integer in 0..4294967295, or None to draw one, got -1'),
        ('param_scheduler.sgd.0.begin=30', 'param_scheduler: end should be larger than begin, but got begin=30'),
        (
            'data_preprocessor.mean=[0.3,0.3] data_preprocessor.std=[1,1]',
            '(N, 2, H, W), got (1, 1, 8, 8); set mean and std to',
        ),
        ('log_level=LOUD', 'config: log_level must be one of '),
        ('sync_bn=nonsense', 'config: sync_bn must be one of torch, mmcv, got'),
        ('custom_hooks=3', 'config: custom_hooks must be a list of hooks, got 3'),
        ('model_wrapper_cfg.type=Nope', "model_wrapper_cfg: 'Nope' is not a registered model wrapper"),
        ('default_hooks.prune.data.num=3', 'PruneHook: data has the keys num_samples and batch_size, got num'),
        ('resume=True load_from=none.pth', 'resume: there is no checkpoint none.pth'),
        ('train_dataloader.drop_last=True train_dataloader.batch_size=2000', 'train_dataloader: an epoch has no batch'),
        (
            'novalue',
            "error: --cfg-options takes KEY=VALUE, such as train_cfg.max_epochs=8, and no dicts, got 'novalue'",
        ),
        ('param_scheduler.sgd=[dict(b=1,c=2)]', "got 'param_scheduler.sgd=[dict(b=1,c=2)]'"),
        ('param_scheduler.sgd.0.milestones=[1,2', "got 'param_scheduler.sgd.0.milestones=[1,2'"),
        ('val_evaluator.topk=(1,11)', 'Accuracy: topk must not exceed the number of classes, 10, got 11'),
        ('default_hooks.prune.pruner.type=SinFlow', 'SynFlow'),
        ('default_hooks.prune.pruner.density=1.5', r'density must lie in (0, 1], got 1.5'),
        ('model.network.type=ResNet19', 'CIFARResNet'),
        ('model.converter.input_bits=0', 'input_bits'),
        ('model.converter.threshold=-1', 'threshold'),
        ('default_hooks.prune.epoch=50', 'PruneHook: epoch must be below the number of epochs'),
        ('optim_wrapper.clip_gard.max_norm=1', 'clip_gard'),
        ('train_dataloader.dataset.type=CIFAR10', 'cifar-10-batches-py'),
        ('train_dataloader.batch_size=0', 'train_dataloader.batch_size must be an integer >= 1, got 0'),
    ],
)
def test_bad_input_is_one_clear_line(refusal, option, message):
    line = refusal(*option.split())
    assert message in line
    from_elsewhere = option.startswith('model.network.type.x')
    assert line.endswith('(PAB_TRACEBACK=1 shows where)') == from_elsewhere  # pab's own say what to do


@pytest.mark.parametrize('option', ['data.num_samples=0', 'pruner.prunable=["name:nothing"]'])
def test_a_refused_run_leaves_nothing_behind(tool, tmp_path, option):
    """Refused when it is built, and when it would train; a run that is there keeps all of its files."""
    here = tmp_path / 'work_dirs' / 'own'
    call = ['--work-dir', here, '--cfg-options', f'default_hooks.prune.{option}']
    assert tool('train.py', QUICKSTART, *call)[1].startswith('error: ')
    assert list(tmp_path.iterdir()) == []
    here.mkdir(parents=True)
    (here / 'quickstart.py').write_text('own = 1')
    assert tool('train.py', QUICKSTART, *call)[1].startswith('error: ')
    assert [(path.name, path.read_text()) for path in here.iterdir()] == [('quickstart.py', 'own = 1')]


@pytest.mark.parametrize('where', ['config', 'run'])
def test_a_traceback_on_request(tool, tmp_path, monkeypatch, where):
    option = 'model.network.depht=3' if where == 'config' else 'default_hooks.prune.pruner.density=1.5'
    monkeypatch.setenv('PAB_TRACEBACK', '1')
    with pytest.raises(ValueError, match=r'depht|density'):
        tool('train.py', QUICKSTART, '--work-dir', tmp_path, '--cfg-options', option)


def test_a_config_that_is_not_there(tool):
    _, line = tool('train.py', 'configs/pab/quikstart.py')
    hint = 'did you mean pab/quickstart? pab config --list names the configs of pab'
    assert line == f'error: there is no config configs/pab/quikstart.py; {hint}'


def test_a_seed_is_in_the_name_of_the_default_folder(tmp_path):
    where = []
    for given in ({}, dict(seed=0), dict(seed=1), dict(seed=1, work_dir=str(tmp_path))):
        args = Namespace(**dict(config=QUICKSTART, cfg_options=None, seed=None, work_dir=None, launcher='none') | given)
        where.append(load_config(args).work_dir)
    assert where == [f'work_dirs/quickstart{end}' for end in ('', '_seed0', '_seed1')] + [str(tmp_path)]
