"""What every pruner, converter, network and sign optimizer must do: whoever registers one has it tested here."""

import copy
import itertools
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pab import compiled
from pab.contracts import exact_gradients, layers_with_weight_in_use, special_layers
from pab.latent import merge_latents_
from pab.models import initialize_
from pab.optim import flips
from pab.pruners import apply_masks_, check_masks, kept_count
from pab.pruners.allocation import ALLOCATIONS
from pab.registry import CONVERTERS, PRUNERS
from pab.run import PabRunner
from tests.registered import ALL_CONVERTERS, ALL_NETWORKS, ALL_PRUNERS, NETWORKS, SIGN_OPTIMIZERS, config
from tests.test_models.test_zoo import build

SIDE = 16
images, labels = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 6, 3, 3])


def network(name: str) -> nn.Module:
    """A small network of a registered kind, (N, 3, 16, 16) -> (N, 7)."""
    settings, factor = NETWORKS[name]
    return initialize_(build({'type': name, **settings}, factor))


def test_every_network_has_a_small_variant():
    assert NETWORKS.keys() == ALL_NETWORKS.keys(), 'NETWORKS of tests/registered.py says how each is made small'


@pytest.mark.parametrize(
    ('name', 'cls'), [*itertools.chain(*(m.items() for m in (ALL_PRUNERS, ALL_CONVERTERS, SIGN_OPTIMIZERS)))]
)
def test_its_first_line_says_what_it_is(name, cls):
    first, *rest = cls.__doc__.splitlines()
    assert first.endswith('.'), name
    assert not rest or not rest[0].strip(), name


# pruners

SCOPES = [('global', 'uniform'), *(('local', allocation) for allocation in ALLOCATIONS), ('2:4', 'uniform')]


@pytest.fixture(scope='module')
def dense() -> nn.Module:
    """Not to be changed."""
    return network('CIFARResNet')


@pytest.fixture(scope='module')
def history(dense) -> dict:
    """Flips of each weight of that network."""
    stream = torch.Generator().manual_seed(3)
    named = [(name, p) for name, p in dense.named_parameters() if p.dim() > 1]
    return {name: torch.randint(0, 9, p.shape, generator=stream) for name, p in named}


def check_counts(masks: dict, scope: str, allocation: str, density: str) -> None:
    """Exactly as many weights as asked for stay, wherever the scope says how many."""
    if scope == '2:4':
        for mask in masks.values():
            blocks = mask.movedim(1, -1).flatten(0, -2).split(4, dim=1)  # of four inputs, at one kernel position
            for block in blocks:
                size = block.shape[1]
                assert (block.sum(1) == size - size // 2).all()
    elif (scope, allocation) == ('local', 'uniform'):
        for mask in masks.values():
            assert int(mask.sum()) == kept_count(mask.numel(), Fraction(density))
    total = sum(mask.numel() for mask in masks.values())
    if scope != '2:4' and (scope, allocation) != ('local', 'uniform'):
        assert sum(int(mask.sum()) for mask in masks.values()) == kept_count(total, Fraction(density))


@pytest.mark.parametrize(('scope', 'allocation'), SCOPES)
@pytest.mark.parametrize('name', ALL_PRUNERS)
def test_a_pruner_keeps_what_is_asked_for(name, scope, allocation, dense, history):
    state = copy.deepcopy(dense.state_dict())
    densities = ['0.5'] if scope == '2:4' else ['0.5', '0.2']
    pruner = PRUNERS.build(
        config(name, ALL_PRUNERS[name], scope=scope, allocation=allocation, rounds=2, prunable=['Conv2d', 'Linear'])
        | dict(density=float(densities[0]))
    )
    given = dict(batches=[(images, labels)], flips=history, input_shape=(3, SIDE, SIDE), seed=5)
    model, earlier = dense, None
    for density in densities:  # shots
        masks = pruner.prune(model, density=float(density), **given)
        check_counts(masks, scope, allocation, density)
        again = pruner.prune(copy.deepcopy(model), density=float(density), **given)
        assert all(torch.equal(mask, again[key]) for key, mask in masks.items())
        if earlier is not None:
            assert not any((mask & ~earlier[key]).any() for key, mask in masks.items())
        model, earlier = copy.deepcopy(model), masks
        apply_masks_(model, masks)
    check_masks(model)
    assert all(torch.equal(value, state[key]) for key, value in dense.state_dict().items())


# converters and networks


def train(model: nn.Module, steps: int = 2) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


@pytest.fixture
def converted(name, converter):
    """(a network, what it was before, the converter)"""
    before = network(name)
    convert = CONVERTERS.build(config(converter, ALL_CONVERTERS[converter]))
    if not any(type(layer) in convert.classes for layer in before.modules()):
        with pytest.raises(ValueError, match=f'{converter}: .* has nothing to convert'):
            convert(before)
        pytest.skip('it has no layer for it')
    return initialize_(convert(copy.deepcopy(before))), before, convert


@pytest.mark.parametrize('converter', ALL_CONVERTERS)
@pytest.mark.parametrize('name', ALL_NETWORKS)
def test_a_converted_network_trains_saves_and_merges(converted):
    model, before, convert = converted
    for own, other in zip(model.modules(), before.modules(), strict=True):
        assert isinstance(own, type(other))
    assert {key: value.shape for key, value in model.state_dict().items() if key in before.state_dict()} == {
        key: value.shape for key, value in before.state_dict().items()
    }

    start = {key: p.detach().clone() for key, p in model.named_parameters()}
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    assert layers_with_weight_in_use(model).keys() <= frozen
    train(model)
    changed = {key for key, p in model.named_parameters() if not torch.equal(p, start[key])}
    assert changed == start.keys() - frozen
    assert all(p.isfinite().all() for p in model.parameters())

    model.eval()
    with torch.no_grad():
        logits = model(images)
        assert logits.shape == (4, 7)
        assert logits.isfinite().all()
        twin = convert(copy.deepcopy(before)).eval()
        twin.load_state_dict(copy.deepcopy(model.state_dict()))
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        assert torch.equal(twin(images), logits)
        assert torch.equal(copy.deepcopy(model)(images), logits)
        torch.testing.assert_close(last(images), logits, rtol=1e-3, atol=1e-4)
        merge_latents_(model)
        assert torch.equal(model(images), logits)
    assert not layers_with_weight_in_use(model)


SPECIAL = [
    name
    for name, cls in ALL_CONVERTERS.items()
    if any(getattr(layer, 'special_backward', False) for layer in cls.classes.values())
    and not any(hasattr(layer, 'used_weight') for layer in cls.classes.values())
]


@pytest.mark.parametrize('converter', SPECIAL)
@pytest.mark.parametrize('name', ALL_NETWORKS)
def test_a_special_backward_pass_can_be_the_ordinary_one(converted):
    model, before, _ = converted
    assert list(special_layers(model))
    before.load_state_dict(model.state_dict())
    for trained in (model, before):
        with exact_gradients(trained):
            F.cross_entropy(trained(images), labels).backward()
    for (key, one), other in zip(model.named_parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=key)


# sign optimizers


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
        flipped = [(p != old) for p, old in zip(params, before, strict=True)]
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
def test_a_restored_sign_optimizer_goes_on_bit_for_bit(kind, weights, dtype):
    params = parameters(weights, dtype)
    optimizer = kind(params, flips_per_weight=True)
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
        monkeypatch.setattr(compiled, '_wanted', wanted)
        monkeypatch.setattr(flips, 'BLOCK', block)
        params = parameters(weights)
        optimizer = kind(params)
        steps(optimizer, params, 0, 10)
        results.append([{'weight': param.detach(), **optimizer.state[param]} for param in params])
    for one, other in zip(*results, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_sign_optimizer_under_masks(kind):
    model = network('CIFARResNet')
    convs = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    optimizer = kind(convs)
    rest = torch.optim.SGD([p for p in model.parameters() if p.dim() == 1], lr=0.1)
    for density in (1.0, 0.6, 0.3):
        apply_masks_(model, PRUNERS.build(dict(type='Mag', density=density)).prune(model), [optimizer])
        magnitudes = [w.detach().abs().clone() for w in convs]
        for _ in range(3):
            for each in (optimizer, rest):
                each.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            for each in (optimizer, rest):
                each.step()
        check_masks(model)
        assert all(torch.equal(w.abs(), size) for w, size in zip(convs, magnitudes, strict=True))


def test_what_a_sign_optimizer_refuses(kind):
    name, weight = kind.__name__, nn.Parameter(torch.ones(1))
    with pytest.raises(TypeError, match=rf'{name}: parameters must be floating tensors, got dtype torch.int64'):
        kind([torch.tensor([1])])
    for key, value in kind([weight]).defaults.items():
        for wrong in (-1.0, float('nan')) if isinstance(value, float) else ():
            with pytest.raises(ValueError, match=rf'{name}: {key} must .*got {wrong}'):
                kind([weight], **{key: wrong})


# whole runs


def by_config(cfg, part: str, name: str):
    """The config of a small run with a member put in by its name."""
    if part == 'optimizer':
        cfg.optim_wrapper.optimizers.bop = dict(type=name, owns=['Conv2d.weight'])
    else:
        cfg.model.converter = config(name, ALL_CONVERTERS[name])
        cfg.optim_wrapper.optimizers = dict(sgd=dict(type='SGD', owns='rest', lr=0.1))
        cfg.param_scheduler = dict(sgd=[])
        cfg.default_hooks.prune = cfg.default_hooks.flips = cfg.default_hooks.ar_decay = None
    return cfg


@pytest.mark.parametrize(
    ('part', 'name'), [*(('optimizer', n) for n in SIGN_OPTIMIZERS), *(('converter', n) for n in ALL_CONVERTERS)]
)
def test_a_run_takes_it_by_its_name(tiny_config, part, name):
    runner = PabRunner.from_cfg(
        by_config(tiny_config(train_cfg=dict(max_epochs=1), train_dataloader=dict(batch_size=8)), part, name)
    )
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 16
    assert torch.tensor(losses).isfinite().all()
    if part == 'optimizer':
        assert runner.message_hub.get_scalar('flips/total').current() > 0
