"""State dicts by other names, and versions of modules on their way through a run, a compact file and an export."""

import pytest
from torch import nn

from pab import compact
from pab.compact.checkpoint import as_checkpoint
from pab.registry import MODELS, RUNNERS
from pab.run.checkpoint import load_safely
from pab.state_dicts import network_in, renamed
from tests.small_run import TinyNet, run_in_child, small_config


@MODELS.register_module()
class VersionedNet(TinyNet):
    """As torchvision's MNASNet, it loads no state dict without a version."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        if local_metadata.get('version') != 2:
            raise ValueError(f'VersionedNet: {prefix or "the root"} has the version {local_metadata.get("version")}')
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


@MODELS.register_module()
class WithWords(VersionedNet):
    """One entry of its state dict is no tensor."""

    def get_extra_state(self):
        return {'words': ['plain']}

    def set_extra_state(self, state):
        assert state == {'words': ['plain']}


def test_versions_by_hand():
    model = nn.ModuleDict(dict(network=nn.Sequential(nn.BatchNorm1d(2)), head=nn.Linear(1, 1)))
    state = model.state_dict()
    state._metadata['network']['version'] = 7
    inner = network_in(state)
    assert list(inner) == [name.removeprefix('network.') for name in state if name.startswith('network.')]
    assert inner._metadata == {'': {'version': 7}, '0': {'version': 2}}
    outer = renamed(inner, 'network.'.__add__)
    assert list(outer) == [name for name in state if name.startswith('network.')]
    assert outer._metadata == {'network': {'version': 7}, 'network.0': {'version': 2}}
    assert not hasattr(renamed(dict(state), str), '_metadata')


def config(folder, network, **options):
    cfg = small_config(folder, model__network__type=network, **options)
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1)]
    return cfg


def there_and_back(folder):
    """Train, stop, go on, test, pack, and begin another run with the file."""
    RUNNERS.build(config(folder / 'a', 'VersionedNet', train_cfg__max_epochs=2)).train()
    allowed = dict(default_hooks__resume_check__allow_changes=True)
    cfg = config(folder / 'a', 'VersionedNet', resume=True, train_cfg__max_epochs=3, **allowed)
    RUNNERS.build(cfg).train()
    cfg = config(folder / 'b', 'VersionedNet', load_from=str(folder / 'a' / 'epoch_3.pth'))
    tested = RUNNERS.build(cfg).test()
    compact.pack(cfg, load_safely(folder / 'a' / 'epoch_3.pth'), folder / 'small.pab')
    assert as_checkpoint(folder / 'small.pab')['state_dict']._metadata['network'] == {'version': 2}
    RUNNERS.build(config(folder / 'c', 'VersionedNet', load_from=str(folder / 'small.pab'))).train()
    return tested


def resumed_with_words(folder):
    RUNNERS.build(config(folder, 'WithWords', train_cfg__max_epochs=2)).train()
    RUNNERS.build(config(folder, 'WithWords', train_cfg__max_epochs=2, resume=True)).train()


@pytest.mark.parametrize('act', [there_and_back, resumed_with_words])
def test_versions_reach_every_network(tmp_path, act):
    status, told = run_in_child(act, tmp_path)
    assert status == 0
    assert not isinstance(told, Exception), told
