"""A whole run with each converter: it trains, resumes and reports."""

import pytest
import torch

from pab.contracts import layers_with_used_weight
from pab.run import PabRunner
from tests.test_latent.latents import WAYS


def config(tiny_config, way, **changes):
    cfg = tiny_config(**changes)
    cfg.model.converter = [dict(cfg.model.converter), dict(type='AffineFreeBatchNorm'), WAYS[way]]
    name = 'latent' if WAYS[way]['type'] == 'LatentSigns' else 'scores'
    cfg.optim_wrapper.optimizers = dict(
        latents=dict(type='SGD', owns=[f'Conv2d.{name}'], lr=1.0, momentum=0.9),
        sgd=dict(type='SGD', owns='rest', lr=0.1, momentum=0.9),
    )
    cfg.param_scheduler = dict(latents=[], sgd=[])
    cfg.default_hooks.prune = cfg.default_hooks.ar_decay = cfg.default_hooks.flips = None
    return cfg


@pytest.mark.parametrize(
    'way', ['ternary', *(pytest.param(way, marks=pytest.mark.slow) for way in ('edge-popup, global', 'biprop'))]
)
def test_a_run_that_is_resumed_is_the_whole_run(tiny_config, tmp_path, way):
    whole = PabRunner.from_cfg(config(tiny_config, way, report=way == 'ternary', work_dir=str(tmp_path / 'whole')))
    whole.train()
    assert (tmp_path / 'whole' / 'report.html').exists() == (way == 'ternary')
    epoch = config(tiny_config, way, load_from=str(tmp_path / 'whole' / 'epoch_1.pth'), resume=True)
    resumed = PabRunner.from_cfg(epoch)
    resumed.train()
    assert resumed.epoch == 2
    state, end = resumed.model.state_dict(), whole.model.state_dict()
    assert state.keys() == end.keys()
    assert [key for key in end if not torch.equal(state[key], end[key])] == []
    start = torch.load(tmp_path / 'whole' / 'epoch_1.pth')['state_dict']
    moved = {key for key in start if not torch.equal(start[key], end[key])}
    layers = {f'network.{name}' for name in layers_with_used_weight(whole.model.network)}
    assert layers
    assert not layers & moved
    assert {name.replace('.weight', '.scores' if way != 'ternary' else '.latent') for name in layers} <= moved
