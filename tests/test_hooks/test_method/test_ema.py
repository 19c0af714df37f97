"""Averaged copies: signs and masks as they are, the rest averaged."""

import pytest
import torch
from mmengine.hooks import Hook

from tests.small_run import run_in_child, runner_hook, small_config, train, train_and_kill

MOMENTUM = 0.25


class Watch(Hook):
    """Average by hand, and compare with the copy after every step."""

    priority = 'LOWEST'

    def before_train(self, runner):
        self.average = None
        self.start = runner.model.network.conv2.weight.detach().clone()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        copy = runner_hook(runner, 'EMAHook').ema_model.module.state_dict()
        here = {name: value.detach().clone() for name, value in runner.model.state_dict().items()}
        as_it_is = [name for name in here if 'conv' in name and not name.endswith('bias')]
        assert as_it_is == [f'network.conv{i}.weight{part}' for i in (1, 2) for part in ('', '_mask')]
        assert all(torch.equal(here[name], copy[name]) for name in as_it_is)
        params = {name: here[name] for name, _ in runner.model.named_parameters() if name not in as_it_is}
        before = self.average or params
        self.average = {name: (1 - MOMENTUM) * before[name] + MOMENTUM * value for name, value in params.items()}
        for name, value in self.average.items():
            torch.testing.assert_close(copy[name], value)


def act(cfg):
    watch = Watch()
    train(cfg, lambda runner: runner.register_hook(watch))
    return watch.start.tolist()


@pytest.mark.parametrize('update_buffers', [False, True])
def test_a_copy_has_the_signs_of_the_network_and_the_average_of_the_rest(tmp_path, update_buffers):
    ema = dict(type='EMAHook', momentum=MOMENTUM, update_buffers=update_buffers)
    status, start = run_in_child(act, small_config(tmp_path, default_hooks__ema=ema))
    assert status == 0
    start = torch.tensor(start)
    checkpoint = torch.load(tmp_path / 'epoch_3.pth')
    copy, live = checkpoint['state_dict'], checkpoint['ema_state_dict']
    name = 'network.conv2.weight'
    assert torch.equal(copy[name], live[f'module.{name}'])
    assert torch.equal(copy[name].abs(), start.abs() * copy[f'{name}_mask'])  # a network that exists
    assert (copy[name] * start < 0).any()
    assert not torch.equal(copy['network.linear.weight'], live['module.network.linear.weight'])


@pytest.mark.parametrize('ema', ['EMAHook', pytest.param('mmengine.EMAHook', marks=pytest.mark.slow)])
def test_a_run_that_goes_on_without_averages_has_its_own_weights(tmp_path, finished, ema):
    """The network of a run with averages trains as that of one without them does, so the resumed run does as well."""
    hook = dict(default_hooks__ema=dict(type=ema, momentum=0.1, update_buffers=True))
    status, _ = run_in_child(train_and_kill, small_config(tmp_path / 'run', **hook), 25, 'after')
    assert status == -9
    allowed = dict(default_hooks__resume_check__allow_changes=True)
    status, end = run_in_child(train, small_config(tmp_path / 'run', resume=True, **allowed))
    assert status == 0, end
    assert end['weights'] == finished.end['weights']
    assert 'goes on from its own weights, not their averages' in max(tmp_path.glob('run/*/*.log')).read_text()
