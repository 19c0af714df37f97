"""Every registered sign optimizer is tested here, and in test_schedulers.py."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pab.optim import flips
from pab.pruners import Mag, apply_masks_, check_masks
from tests.registered import SIGN_OPTIMIZERS, small_network


@pytest.fixture(params=SIGN_OPTIMIZERS)
def kind(request):
    return SIGN_OPTIMIZERS[request.param]


@pytest.fixture
def weights():
    shapes = [(3, 5), (8, 4, 3, 3), (40,)]
    start = [torch.randn(shape) * (torch.rand(shape) > 0.3) for shape in shapes]
    start[1] = start[1].to(memory_format=torch.channels_last)
    return start


def steps(optimizer, params, first, last):
    """Steps on gradients that each have a number; what every step flipped."""
    counts = []
    for number in range(first, last):
        for place, param in enumerate(params):
            stream = torch.Generator().manual_seed(100 * number + place)
            param.grad = torch.randn(param.shape, generator=stream).to(param.dtype)
        optimizer.step()
        counts.append(int(optimizer.last_flips))
    return counts


def parameters(weights, dtype=torch.float32):
    return [nn.Parameter(weight.to(dtype).clone()) for weight in weights]


def test_a_schedule_below_0_is_refused(kind):
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = kind([weight])
    optimizer.param_groups[0]['lr'] = -0.5
    weight.grad = torch.ones(2, 2)
    with pytest.raises(ValueError, match=r'lr must be >= 0, got -0\.5; let its schedule end at 0'):
        optimizer.step()
    assert torch.equal(weight, torch.ones(2, 2))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
def test_a_sign_optimizer_flips_signs_alone_and_counts_them(kind, weights, dtype):
    params = parameters(weights, dtype)
    optimizer = kind(params, flips_per_weight=True)
    assert optimizer.last_flips is None
    expected = [torch.zeros(w.shape, dtype=torch.int32) for w in weights]
    total = 0
    for number in range(30):
        before = [p.detach().clone() for p in params]
        (count,) = steps(optimizer, params, number, number + 1)
        flipped = [p != old for p, old in zip(params, before, strict=True)]
        assert count == sum(int(f.sum()) for f in flipped)
        total += count
        for tally, flip in zip(expected, flipped, strict=True):
            tally += flip
    assert total > 0
    assert (optimizer.last_flips.dtype, optimizer.last_flips.dim()) == (torch.int64, 0)
    for param, weight, tally in zip(params, weights, expected, strict=True):
        assert torch.equal(param.abs(), weight.to(dtype).abs())  # and so what is pruned stays 0
        assert param.stride() == weight.stride()
        state = optimizer.state[param]
        assert torch.equal(state['weight_flips'], tally)
        assert state['weight_flips'].dtype == torch.int32
        assert int(state['tensor_flips']) == int(tally.sum())
        assert state['tensor_flips'].dtype == torch.int64


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('flags', [False, True])
def test_a_restored_sign_optimizer_goes_on_bit_for_bit(kind, weights, dtype, flags):
    params = parameters(weights, dtype)
    defaults = kind(params).defaults
    # other numbers than the defaults, so that the settings are restored too
    numbers = {key: 0.7 * value for key, value in defaults.items() if isinstance(value, float)}
    optimizer = kind(params, **numbers, **{key: flags for key, value in defaults.items() if isinstance(value, bool)})
    steps(optimizer, params, 0, 10)
    twins = parameters(params, dtype)
    twin = kind(twins)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert steps(optimizer, params, 10, 20) == steps(twin, twins, 10, 20)
    for param, other in zip(params, twins, strict=True):
        assert torch.equal(param, other)
        states = optimizer.state[param], twin.state[other]
        assert states[0].keys() == states[1].keys()
        for key, value in states[0].items():
            assert torch.equal(value, states[1][key]), key
            assert value.dtype == states[1][key].dtype, key


def test_a_sign_optimizer_gives_the_same_bits_compiled_and_not(kind, weights, monkeypatch):
    results = []
    for wanted, block in ((True, 0), (False, 50)):
        monkeypatch.setenv('PAB_COMPILE', str(int(wanted)))
        monkeypatch.setattr(flips, 'BLOCK', block)
        params = parameters(weights)
        optimizer = kind(params)
        steps(optimizer, params, 0, 10)
        results.append([{'weight': param.detach(), **optimizer.state[param]} for param in params])
    for one, other in zip(*results, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_sign_optimizer_under_masks(kind):
    model = small_network('CIFARResNet')
    convs = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    optimizer = kind(convs)
    rest = torch.optim.SGD([p for p in model.parameters() if p.dim() == 1], lr=0.1)
    for density in (1.0, 0.6, 0.3):
        apply_masks_(model, Mag(density).prune(model), [optimizer])
        magnitudes = [w.detach().abs().clone() for w in convs]
        for _ in range(3):
            for each in (optimizer, rest):
                each.zero_grad()
            F.cross_entropy(model(torch.randn(4, 3, 8, 8)), torch.tensor([0, 6, 3, 3])).backward()
            for each in (optimizer, rest):
                each.step()
        check_masks(model)
        assert all(torch.equal(w.abs(), size) for w, size in zip(convs, magnitudes, strict=True))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_the_layout_changes_no_choice(kind, dtype):
    start = torch.randn(8, 4, 3, 3).to(dtype)
    plain, last = nn.Parameter(start.clone()), nn.Parameter(start.clone(memory_format=torch.channels_last))
    optimizer = kind([plain, last])
    for _ in range(10):
        plain.grad = torch.randn(8, 4, 3, 3).to(dtype)
        last.grad = plain.grad.clone()
        optimizer.step()
    assert torch.equal(plain, last)
    assert not torch.equal(plain, start)
    assert optimizer.state[plain]['moving_average'].dtype == torch.float32


@pytest.mark.parametrize(
    ('name', 'settings', 'flips'),
    [
        ('SecondOrderBop', dict(adaptivity_rate=0.1, threshold=0.4, second_rate=0.1, eps=0.0), range(1, 2560)),
        ('TopFlips', dict(flip_share=0.05), [128]),  # 20 * 0.05 * 128
    ],
)
def test_the_scale_of_the_gradient_does_not_matter(name, settings, flips):
    pair = parameters([torch.randn(16, 8)] * 2)
    optimizers = [SIGN_OPTIMIZERS[name]([weight], **settings) for weight in pair]
    for _ in range(20):
        grad = torch.randn(16, 8)
        for weight, optimizer, scale in zip(pair, optimizers, (1.0, 1024.0), strict=True):
            weight.grad = grad * scale
            optimizer.step()
    assert torch.equal(*pair)
    assert int(optimizers[0].state[pair[0]]['tensor_flips']) in flips


def test_a_step_without_any_gradient_does_nothing(kind):
    weight = nn.Parameter(torch.ones(2))
    optimizer = kind([weight])
    optimizer.step()
    assert optimizer.last_flips is None
    assert weight.tolist() == [1, 1]


def test_what_a_sign_optimizer_refuses(kind):
    name, weight = kind.__name__, nn.Parameter(torch.ones(1))
    with pytest.raises(TypeError, match=rf'{name}: parameters must be floating tensors, got dtype torch.int64'):
        kind([torch.tensor([1])])
    for key, value in kind([weight]).defaults.items():
        for wrong in (-1.0, float('nan')) if isinstance(value, float) else ():
            with pytest.raises(ValueError, match=rf'{name}: {key} must .*got {wrong}'):
                kind([weight], **{key: wrong})
            with pytest.raises(ValueError, match=rf'{name}: {key} must .*got {wrong}'):
                kind([{'params': [weight], key: wrong}])


def test_the_learning_rate_is_a_factor_on_the_step_size(kind, weights):
    """Under LambdaLR the signs move as under a schedule of the setting itself; at 0 nothing is learned."""
    twins = [parameters(weights), parameters(weights)]
    by_lr, by_setting = (kind(params, **{kind.scaled_by_lr: 0.25}) for params in twins)
    assert [group['lr'] for group in by_lr.param_groups] == [1.0]
    schedule = torch.optim.lr_scheduler.LambdaLR(by_lr, lambda step: 0.5**step if step < 4 else 0.0)
    for number in range(6):
        by_setting.param_groups[0][kind.scaled_by_lr] = 0.25 * 0.5**number if number < 4 else 0.0
        assert steps(by_lr, twins[0], number, number + 1) == steps(by_setting, twins[1], number, number + 1)
        schedule.step()
    assert by_lr.param_groups[0][kind.scaled_by_lr] == 0.25
    for one, other in zip(*twins, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(by_lr.state[one]['moving_average'], by_setting.state[other]['moving_average'])


def test_a_factor_that_is_too_large(kind):
    weight = nn.Parameter(torch.ones(2))
    optimizer = kind([weight], lr=1e9)
    weight.grad = torch.ones(2)
    with pytest.raises(ValueError, match=rf'{kind.__name__}: lr is a factor on {kind.scaled_by_lr}; 1e\+09 times'):
        optimizer.step()


@pytest.mark.parametrize('clone', [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_has_flipped_nothing(clone, kind, weights):
    optimizer = kind(parameters(weights))
    assert not hasattr(kind, 'last_flips')
    assert clone(optimizer).last_flips is None
    steps(optimizer, optimizer.param_groups[0]['params'], 0, 1)
    flipped = int(optimizer.last_flips)
    optimizer.load_state_dict(optimizer.state_dict())
    assert int(optimizer.last_flips) == flipped
