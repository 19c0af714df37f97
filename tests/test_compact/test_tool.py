"""From a run to a file, and from a file to a run, as a user does it."""

import errno
import os

import pytest
import torch

from pab import compact
from pab.hooks import PruneHook
from pab.models import ConvNet, initialize_
from pab.pruners import get_masks
from pab.registry import MODELS
from pab.run import PabRunner
from tests.small_run import QUICKSTART, runner_hook, small_config


def config(folder, **options):
    """One shot of pruning before training, and weights from the run's seed."""
    options = {'default_hooks__prune__epoch': 0, 'default_hooks__prune__shots': 1, **options}
    return small_config(folder, randomness__seed=options.pop('seed', 5), model__init__seed=None, **options)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """(config file, checkpoint) of a run of three epochs."""
    folder = tmp_path_factory.mktemp('run')
    cfg = config(folder / 'run')
    PabRunner.from_cfg(cfg).train()
    cfg.dump(str(folder / 'config.py'))
    return folder / 'config.py', folder / 'run' / 'epoch_3.pth'


def full_disk(_descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_file_before_and_is_one_line(run, tmp_path, tool, monkeypatch):
    file, plain = tmp_path / 'net.pab', tmp_path / 'net.pth'
    assert tool('compact.py', 'pack', *run, file)[1] == tool('compact.py', 'unpack', file, plain)[1] == 0
    before = file.read_bytes(), plain.read_bytes()
    monkeypatch.setattr(os, 'fsync', full_disk)
    for args in (('pack', *run, file), ('unpack', file, plain)):
        shown, status = tool('compact.py', *args, '--force')
        assert status.startswith(f"error: cannot write '{args[-1]}': No space left on device (")
        assert ' kB needed, ' in status and '\n' not in status
        assert 'Traceback' not in shown
    assert (file.read_bytes(), plain.read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ['net.pab', 'net.pth']


def test_pack_test_train_and_unpack(run, tmp_path, tool, monkeypatch):
    settings, checkpoint = run
    file = tmp_path / 'small.pab'
    shown, status = tool('compact.py', 'pack', settings, checkpoint, file)
    assert status == 0
    for part in ('times smaller than float32', "'kaiming_normal', seed 5", 'density        0.5', '"SynFlow"', '"mean"'):
        assert part in shown

    saved = torch.load(checkpoint, weights_only=True)['state_dict']
    loaded = compact.load(file).state_dict()
    assert {f'network.{name}' for name in loaded} == saved.keys()
    assert all(torch.equal(value, saved[f'network.{name}']) for name, value in loaded.items())

    def started_from(path, name):
        return PabRunner.from_cfg(config(tmp_path / name, load_from=str(path), train_cfg__max_epochs=1))

    assert started_from(file, 'a').test() == started_from(checkpoint, 'b').test()

    monkeypatch.setattr(PruneHook, 'prune', lambda *_: pytest.fail('pruned again'))
    ends = []
    for path, name in ((file, 'c'), (checkpoint, 'd')):
        runner = started_from(path, name)
        runner.train()
        ends.append(runner.model.state_dict())
        assert runner_hook(runner, 'PruneHook').record(runner)['pruned_from']['path'] == str(path)
    assert all(torch.equal(a, b) for a, b in zip(*(end.values() for end in ends), strict=True))
    assert all(torch.equal(m, loaded[f'{n}_mask']) for n, m in get_masks(runner.model.network).items())

    assert tool('compact.py', 'unpack', file, tmp_path / 'plain.pth')[1] == 0
    plain = torch.load(tmp_path / 'plain.pth', weights_only=True)
    assert all(torch.equal(plain['state_dict'][name], value) for name, value in saved.items())
    assert 'plain.pth exists' in tool('compact.py', 'unpack', file, tmp_path / 'plain.pth')[1]

    other = config(tmp_path / 'e', load_from=str(file), seed=6)
    with pytest.raises(ValueError, match=r'was pruned with seed 5 \(here 6\)'):
        PabRunner.from_cfg(other).train()


def test_float16(run, tmp_path, tool):
    settings, checkpoint = run
    file = tmp_path / 'half.pab'
    assert tool('compact.py', 'pack', settings, checkpoint, file, '--values', 'float16')[1] == 0
    assert compact.info(file)['values'] == 'float16'


def test_refusals_of_the_tool(run, tmp_path, tool):
    settings, checkpoint = run
    saved = torch.load(checkpoint, weights_only=True)
    out = tmp_path / 'x.pab'
    printed, status = tool('compact.py', 'pack', settings, checkpoint, tmp_path / 'x.pth')
    assert status == 2
    assert 'OUT.pab must end in .pab' in printed
    _, refused = tool('compact.py', 'pack', settings, checkpoint, out, '--seed', 9)
    assert 'weights left in conv1.weight' in refused
    assert 'seed 9' in refused
    saved['state_dict']['network.conv2.weight'] *= 0.5  # as averaging or SGD would
    torch.save(saved, tmp_path / 'averaged.pth')
    _, refused = tool('compact.py', 'pack', settings, tmp_path / 'averaged.pth', out)
    assert refused.startswith('error: save: of ')
    assert 'weights left in conv2.weight' in refused
    del saved['state_dict']['network.bn1.bias']
    torch.save(saved, tmp_path / 'other.pth')
    _, refused = tool('compact.py', 'pack', settings, tmp_path / 'other.pth', out)
    assert 'the checkpoint is not of the model of this config' in refused
    assert len(refused.splitlines()) == 1
    assert 'there is no compact file' in tool('compact.py', 'info', tmp_path / 'nowhere.pab')[1]
    assert not out.exists()


def test_a_network_of_one_s_own_is_unpacked_by_a_config_that_imports_it(tmp_path, tool):
    source = 'from pab.models import ConvNet\nfrom pab.registry import MODELS\n'
    source += 'MODELS.register_module("OwnNet", module=ConvNet)\n'
    (tmp_path / 'own_net_of_unpack.py').write_text(source)
    config = f"_base_ = ['{QUICKSTART}']\ncustom_imports = dict(imports=['own_net_of_unpack'])\n"
    (tmp_path / 'config.py').write_text(config)
    MODELS.register_module('OwnNet', module=ConvNet)
    file, out = tmp_path / 'own.pab', tmp_path / 'own.pth'
    try:
        network = dict(type='OwnNet', depth=2, image_size=8)
        compact.save(initialize_(ConvNet(2, image_size=8), seed=1), file, network=network, seed=1)
    finally:
        MODELS.module_dict.pop('OwnNet')
    assert 'name a config that does (--config of the commands)' in tool('compact.py', 'unpack', file, out)[1]
    try:
        assert tool('compact.py', 'unpack', file, out, '--config', tmp_path / 'config.py')[1] == 0
    finally:
        MODELS.module_dict.pop('OwnNet', None)
    assert 'network.linear.weight' in torch.load(out, weights_only=True)['state_dict']
