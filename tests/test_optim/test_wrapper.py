import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

import pab.optim
from pab.psg import PSGConfig, convert_psg_
from pab.registry import OPTIM_WRAPPER_CONSTRUCTORS


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def build(model, signs=None, sgd=None, **wrapper):
    cfg = dict(
        optimizers=dict(
            signs=dict(type='Bop', owns=['Conv2d.weight'], adaptivity_rate=0.1, threshold=1e-5, **(signs or {})),
            sgd=dict(type='SGD', owns='rest', lr=0.1, momentum=0.9, **(sgd or {})),
        ),
        **wrapper,
    )
    return OPTIM_WRAPPER_CONSTRUCTORS.build(dict(type='OwnershipConstructor', optim_wrapper_cfg=cfg))(model)


def loss_of(model, seed):
    gen = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(8, 1, 4, 4, generator=gen), torch.randint(3, (8,), generator=gen)
    return nn.functional.cross_entropy(model(images), labels)


def train(model, wrapper, seeds):
    for seed in seeds:
        with wrapper.optim_context(model):
            loss = loss_of(model, seed)
        wrapper.update_params(loss)


def clipped_gradients(clip_grad):
    model = net()
    wrapper = build(model, clip_grad=clip_grad)
    loss_of(model, 0).backward()
    wrapper._clip()
    return torch.cat([p.grad.flatten() for p in model.parameters()]), wrapper


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_mmengine_builds_it_from_a_config():
    cfg = dict(constructor='pab.OwnershipConstructor', optimizers=dict(sgd=dict(type='SGD', owns='rest', lr=0.1)))
    assert type(build_optim_wrapper(net(), cfg)).__name__ == 'SharedBackward'


def test_one_backward_two_steps_equals_a_loop_by_hand():
    model, by_hand = net(), net()
    wrapper = build(model)
    bop = pab.optim.Bop([by_hand[0].weight], adaptivity_rate=0.1, threshold=1e-5)
    rest = [p for name, p in by_hand.named_parameters() if name != '0.weight']
    sgd = torch.optim.SGD(rest, lr=0.1, momentum=0.9)
    train(model, wrapper, range(5))
    for seed in range(5):
        loss_of(by_hand, seed).backward()
        for opt in (bop, sgd):
            opt.step()
            opt.zero_grad()
    assert same(model, by_hand)


def test_accumulation_sums_the_gradients_of_the_parts():
    # BatchNorm in eval mode, so that two half batches see what the whole one does.
    model, whole = net().eval(), net().eval()
    wrapper = build(model, accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 4)
    train(model, wrapper, [0, 1, 2, 3])
    reference = build(whole)
    for pair in ((0, 1), (2, 3)):
        reference.update_params(sum(loss_of(whole, seed) for seed in pair) / 2)
    for a, b in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_clipping_is_over_all_optimizers_at_once():
    clipped, wrapper = clipped_gradients(dict(max_norm=1e-3))
    torch.testing.assert_close(clipped.norm(), torch.tensor(1e-3), rtol=1e-3, atol=0)
    assert wrapper.scalars['grad_norm'] > 1e-3  # what it was before
    assert clipped_gradients(dict(type='value', clip_value=1e-3))[0].abs().max() <= 1.0001e-3


@pytest.mark.parametrize('precision', ['bfloat16', 'float16'])
def test_autocast_on_the_cpu(precision):
    model = net()
    wrapper = build(model, precision=precision)
    with wrapper.optim_context(model):
        assert model(torch.randn(2, 1, 4, 4)).dtype == getattr(torch, precision)
    before = copy.deepcopy(model)
    train(model, wrapper, range(3))
    assert not same(model, before)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_an_overflow_skips_the_step_of_every_optimizer():
    model = net()
    wrapper = build(model, precision='float16')
    before = copy.deepcopy(model.state_dict())
    scale = wrapper.scaler.get_scale()
    wrapper.backward(loss_of(model, 0))
    model[4].bias.grad[0] = float('inf')  # one optimizer's gradient only
    wrapper.step()
    for name, param in model.named_parameters():
        assert torch.equal(param, before[name]), name
    assert wrapper.scaler.get_scale() < scale


@pytest.mark.parametrize('precision', ['float32', 'float16'])
def test_resume_is_exact(precision):
    model = net()
    wrapper = build(model, precision=precision)
    train(model, wrapper, range(3))
    other = net()
    other.load_state_dict(model.state_dict())
    resumed = build(other, precision=precision)
    resumed.load_state_dict(copy.deepcopy(wrapper.state_dict()))
    train(model, wrapper, range(3, 6))
    train(other, resumed, range(3, 6))
    assert same(model, other)


def test_logged_rates():
    wrapper = build(net())
    assert wrapper.get_lr() == {'lr': [0.1]}
    adam = torch.optim.Adam([nn.Parameter(torch.ones(1))], lr=0.5)
    both = pab.optim.SharedBackward(adam=adam, sgd=wrapper['sgd'].optimizer)
    assert both.get_lr() == {'adam.lr': [0.5], 'sgd.lr': [0.1]}


def test_state_of_other_optimizers_is_refused():
    wrapper = build(net())
    with pytest.raises(ValueError, match=r"holds the state of \['adam'\], this run has \['sgd', 'signs'\]"):
        wrapper.load_state_dict(dict(adam={}))
    with pytest.raises(ValueError, match='precision the run was started with'):
        build(net(), precision='float16').load_state_dict(wrapper.state_dict())


SGD = dict(sgd=dict(type='SGD', owns='rest', lr=1))


@pytest.mark.parametrize(
    ('cfg', 'error', 'message'),
    [
        (dict(optimizers={}), ValueError, 'must name at least one optimizer'),
        (dict(optimizers=dict(sgd=dict(type='SGD', lr=1))), ValueError, "optimizer 'sgd' needs the key 'owns'"),
        (
            dict(optimizers=SGD, precision='int8'),
            ValueError,
            "unknown precision 'int8'; known: float32, bfloat16, float16",
        ),
        (dict(optimizers=SGD, accumulative_counts=0), ValueError, 'counts must be an int >= 1, got 0'),
        (dict(optimizers=SGD, clip_gard=dict()), TypeError, "'clip_gard' is neither an optimizer nor a setting"),
        (
            dict(optimizers=SGD, clip_grad=dict(type='valu')),
            ValueError,
            "unknown clip_grad.type 'valu'; known: norm, value",
        ),
        (
            dict(optimizers=SGD, clip_grad=dict(max_nrom=1)),
            TypeError,
            "clip_grad does not fit clip_grad_norm_: .*'max_n",
        ),
        (
            dict(optimizers=SGD, clip_grad=dict(type='value')),
            TypeError,
            "clip_grad does not fit clip_grad_value_: missing .*'clip_value'",
        ),
    ],
)
def test_bad_settings(cfg, error, message):
    with pytest.raises(error, match=message):
        OPTIM_WRAPPER_CONSTRUCTORS.build(dict(type='OwnershipConstructor', optim_wrapper_cfg=cfg))(net())


def test_paramwise_settings_are_refused():
    config = dict(type='OwnershipConstructor', optim_wrapper_cfg={}, paramwise_cfg=dict(norm_decay_mult=0))
    with pytest.raises(ValueError, match='paramwise_cfg is not read'):
        OPTIM_WRAPPER_CONSTRUCTORS.build(config)


@pytest.mark.parametrize('settings', [dict(take_sign=True), dict(relative=False, threshold=1e-3)])
def test_a_scaled_loss_and_gradients_that_are_compared_with_numbers(settings):
    model = convert_psg_(net(), PSGConfig(**settings))
    with pytest.raises(ValueError, match=r"the gradient of 0 does not scale with .* precision='bfloat16'"):
        build(model, precision='float16')
    build(model, precision='bfloat16')
    build(convert_psg_(net()), precision='float16')
