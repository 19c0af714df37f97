"""Runs that train without dead channels, beside runs with them; resumed; and what is refused."""

import re

import pytest
import torch

from pab.pruners import get_masks
from pab.registry import MODELS
from pab.run import PabRunner
from tests.small_run import TinyNet, final_state, small_config


@pytest.fixture
def config(tiny_config, tmp_path):
    """A function: name of a folder, narrow -> the config of two epochs; SynFlow leaves about half of the channels."""

    def make(name, narrow, **changes):
        cfg = tiny_config(work_dir=tmp_path / name, model__network__width=8, train_cfg__max_epochs=2, **changes)
        cfg.default_hooks.prune.update(narrow=narrow)
        cfg.default_hooks.prune.pruner.update(density=0.04, rounds=20)
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=3, by_epoch=False)
        return cfg

    return make


def trained(cfg):
    """The runner behind its training, its losses, and the sizes of a layer at its steps and in its validations."""
    runner, sizes = PabRunner.from_cfg(cfg), set()
    layer = runner.network.layer3[0].conv1
    layer.register_forward_hook(
        lambda layer, _, out: None if out.is_meta else sizes.add((layer.training, out.shape[1]))
    )
    runner.train()
    return runner, runner.message_hub.get_scalar('train/loss').data[0], sizes


def test_the_same_run_with_and_without(config, tmp_path):
    whole, losses, sizes = trained(config('whole', False))
    small, small_losses, small_sizes = trained(config('small', True))
    assert sizes == {(True, 32), (False, 32)}  # the pruner runs the network in training as well
    assert small_sizes > sizes
    assert all(training and size < 32 for training, size in small_sizes - sizes)
    torch.testing.assert_close(torch.tensor(small_losses), torch.tensor(losses), rtol=1e-4, atol=1e-5)
    scores = [runner.message_hub.get_scalar('val/accuracy/top1').data[0] for runner in (whole, small)]
    assert scores[0].tolist() == scores[1].tolist()
    masks = [get_masks(runner.network) for runner in (whole, small)]
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())
    files = [torch.load(tmp_path / name / 'iter_3.pth', weights_only=True) for name in ('whole', 'small')]
    shapes = [{name: value.shape for name, value in file['state_dict'].items()} for file in files]
    assert shapes[0] == shapes[1]
    told = (tmp_path / 'small').rglob('*.log')
    assert re.search(r'Narrow training: \d+ of 10 layers are smaller', ''.join(path.read_text() for path in told))


@pytest.mark.slow
def test_a_resumed_run_is_the_same(config, tmp_path):
    whole, _, _ = trained(config('run', True))
    resumed = config('resumed', True, resume=True, load_from=str(tmp_path / 'run' / 'iter_3.pth'))
    again, _, _ = trained(resumed)
    assert (again.iter, 3 % len(whole.train_dataloader)) == (whole.iter, 3)  # in the middle of an epoch
    assert final_state(again) == final_state(whole)


def test_what_needs_all_channels_is_refused(config):
    cfg = config('run', True)
    cfg.custom_hooks = [dict(type='EMAHook')]
    with pytest.raises(ValueError, match='narrow=True does not go with EMAHook; set narrow=False'):
        PabRunner.from_cfg(cfg).train()


@MODELS.register_module()
class Sized(TinyNet):
    """Its forward pass has the number of channels in it, or a tensor of the CPU, or a branch that no trace follows."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, images):
        if self.way == 'branch' and images.sum() > 1e9:
            return images
        out = torch.relu(self.bn1(self.conv1(images)))
        if self.way == 'number':
            out = out.reshape(-1, 6, 6, 6)
        if self.way == 'device':
            out = out * torch.ones(6)
        return self.linear(torch.relu(self.conv2(out)).mean((2, 3)))


@pytest.mark.parametrize(
    'way, epoch, told',
    [
        ('number', 0, 'Sized takes no smaller layers in its forward pass'),
        ('device', 0, 'Sized does not run on the meta device'),
        ('branch', 1, 'narrow: torch.export cannot follow Sized'),
    ],
)
def test_a_forward_pass_that_does_not_go_with_it_is_refused_in_one_line(tmp_path, way, epoch, told):
    cfg = small_config(tmp_path, model__network=dict(_delete_=True, type='Sized', way=way), model__converter=None)
    cfg.default_hooks.prune.update(
        narrow=True, epoch=epoch, shots=1, pruner=dict(type='SynFlow', density=0.05, rounds=3)
    )
    runner = PabRunner.from_cfg(cfg)
    with pytest.raises(ValueError, match=told):
        runner.train()
    assert runner.iter == 0
    assert runner.network.conv2.weight.shape == (6, 6, 3, 3)
