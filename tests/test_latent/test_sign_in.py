"""Sign-In: a weight as a product, by numbers and in a run."""

import pytest
import torch
from torch import nn

from pab.latent import SignIn
from pab.pruners import get_masks
from pab.registry import RUNNERS
from tests.small_run import StepHook, final_state, small_config


def layer_of(weight, factor, **settings):
    layer = SignIn(**settings)(nn.Conv2d(len(weight), 1, 1, bias=False))
    layer.weight.data = torch.tensor(weight).view(1, -1, 1, 1)
    layer.factor.data = torch.tensor(factor).view(1, -1, 1, 1)
    return layer


def test_two_steps_by_hand():
    layer = layer_of([0.5, -0.5, 0.0], [1.0, 2.0, 1.0])
    sgd = torch.optim.SGD(layer.parameters(), lr=1.0)
    for upstream, weight, factor in (
        ([1.0, 1.0, 1.0], [-0.5, -2.5, -1.0], [0.5, 2.5, 1.0]),  # g m off the weight, g w off the factor
        ([0.0, 1.0, 1.0], [-0.5, -5.0, -2.0], [0.5, 5.0, 2.0]),
    ):
        sgd.zero_grad()
        layer.used_weight().backward(torch.tensor(upstream).view(1, -1, 1, 1))
        sgd.step()
        assert layer.weight.flatten().tolist() == weight
        assert layer.factor.flatten().tolist() == factor
    assert layer.used_weight().flatten().tolist() == [-0.25, -25, -4]


@pytest.mark.parametrize('scale', [1.0, 2.0])
def test_balancing_by_hand(scale):
    """0.75 * 1.25 = 0.9375, and 1.25^2 - 0.75^2 = 1."""
    layer = layer_of([0.9375 * scale, -1.875 * scale, 0.0], [scale, -0.5 * scale, -7.0], balance=scale**2)
    used = layer.used_weight().clone()
    layer.rebalance_()
    assert (layer.weight / scale).flatten().tolist() == [0.75, 0.75, 0]
    assert (layer.factor / scale).flatten().tolist() == [1.25, 1.25, 1]
    assert torch.equal(layer.used_weight(), used)


def test_the_network_starts_as_the_plain_one():
    plain = nn.Conv2d(3, 4, 3)
    layer = SignIn()(nn.Conv2d(3, 4, 3))
    layer.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(layer(images), plain(images))


def signing_in(folder, **changes):
    cfg = small_config(folder, **changes)
    cfg.model.converter = dict(type='SignIn')
    cfg.optim_wrapper.optimizers = dict(sgd=dict(type='SGD', owns='rest', lr=0.1, momentum=0.9, weight_decay=0.1))
    cfg.param_scheduler = dict(sgd=[])
    cfg.default_hooks.ar_decay = cfg.default_hooks.flips = None
    cfg.custom_hooks = [dict(type='SignInHook', every_epochs=2)]
    return cfg


def balance_of(layer):
    return (layer.factor**2 - layer.weight**2).detach().flatten()


def test_a_run_is_balanced_as_epochs_begin_and_resumes_as_it_was(tmp_path):
    steps = dict(by_epoch=False, interval=1, max_keep_ckpts=-1, save_best=None)
    seen = {}
    runner = RUNNERS.build(signing_in(tmp_path / 'whole', default_hooks__checkpoint=steps))
    runner.register_hook(StepHook(lambda network, _: seen.update({runner.iter: balance_of(network.conv2)})))
    runner.train()
    for step, balance in seen.items():
        if step in (0, 20):
            torch.testing.assert_close(balance, torch.ones_like(balance), rtol=0, atol=1e-6)
        else:
            assert (balance < 1).all()
            assert (balance < seen[step - 1]).all()
    end, masks = final_state(runner), get_masks(runner.network)
    assert not runner.network.conv2.used_weight()[~masks['conv2.weight']].any()
    for step in (20, 23):  # before an epoch that is balanced, and in its middle
        file = str(tmp_path / 'whole' / f'iter_{step}.pth')
        again = RUNNERS.build(signing_in(tmp_path / str(step), resume=True, load_from=file))
        again.train()
        assert final_state(again)['weights'] == end['weights'], step


def test_what_is_refused(tmp_path):
    for balance in (0, -1.0, float('inf'), True, '1'):
        with pytest.raises(ValueError, match='SignIn: balance must be a number above 0, got'):
            SignIn(balance=balance)
    cfg = signing_in(tmp_path)
    cfg.model.converter = None
    with pytest.raises(ValueError, match='SignInHook: the network has no layers of SignIn; set '):
        RUNNERS.build(cfg).train()
