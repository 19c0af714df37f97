"""Every registered pruner, converter and network is tested here."""

import copy
import itertools
import pickle
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pab.contracts import exact_gradients, layers_with_used_weight, special_layers
from pab.latent import merge_latents_
from pab.models import initialize_
from pab.pruners import Rand, apply_masks_, check_masks, kept_count, register_masks_
from pab.pruners.allocation import ALLOCATIONS
from pab.registry import CONVERTERS, MODELS, PRUNERS
from pab.run import PabRunner
from tests.registered import (
    ALL_CONVERTERS,
    ALL_NETWORKS,
    ALL_PRUNERS,
    NETWORKS,
    SIGN_OPTIMIZERS,
    config,
    members,
    small_network,
)

SIDE = 16
images, labels = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 6, 3, 3])


def test_every_network_has_a_small_variant():
    types = {config['type'] for config, _ in NETWORKS.values()}
    assert types == ALL_NETWORKS.keys(), 'NETWORKS of tests/registered.py says how each is made small'


@pytest.mark.parametrize(
    ('name', 'cls'),
    [*itertools.chain(*(m.items() for m in (ALL_PRUNERS, ALL_CONVERTERS, SIGN_OPTIMIZERS, members(MODELS))))],
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
    return small_network('CIFARResNet')


@pytest.fixture(scope='module')
def history(dense) -> dict:
    """Flips of each weight of that network."""
    stream = torch.Generator().manual_seed(3)
    named = [(name, p) for name, p in dense.named_parameters() if p.dim() > 1]
    return {name: torch.randint(0, 9, p.shape, generator=stream) for name, p in named}


def check_counts(masks: dict, scope: str, allocation: str, density: str) -> None:
    """Exactly as many weights stay as asked for."""
    if scope == '2:4':
        for mask in masks.values():
            blocks = mask.movedim(1, -1).flatten(0, -2).split(4, dim=1)  # of four inputs, at one kernel position
            for block in blocks:
                size = block.shape[1]
                assert (block.sum(1) == size - size // 2).all()
    elif (scope, allocation) == ('local', 'uniform'):
        for mask in masks.values():
            assert int(mask.sum()) == kept_count(mask.numel(), Fraction(density))
    else:
        total = sum(mask.numel() for mask in masks.values())
        assert sum(int(mask.sum()) for mask in masks.values()) == kept_count(total, Fraction(density))


@pytest.mark.parametrize(('scope', 'allocation'), SCOPES)
@pytest.mark.parametrize('name', ALL_PRUNERS)
def test_a_pruner_keeps_what_is_asked_for(name, scope, allocation, dense, history):
    state = copy.deepcopy(dense.state_dict())
    densities = ['0.5'] if scope == '2:4' else ['0.71', '0.3']
    pruner = PRUNERS.build(
        config(name, ALL_PRUNERS[name], scope=scope, allocation=allocation, rounds=2, prunable=['Conv2d', 'Linear'])
        | dict(density=float(densities[-1]))
    )
    given = dict(batches=[(images, labels)], flips=history, input_shape=(3, SIDE, SIDE), seed=5)
    model, earlier = dense, None
    for density in densities:  # shots
        given['shot'] = lambda _, reached=float(density): reached
        masks = pruner.prune(model, **given)
        check_counts(masks, scope, allocation, density)
        again = pruner.prune(copy.deepcopy(model), **given)
        assert all(torch.equal(mask, again[key]) for key, mask in masks.items())
        if earlier is not None:
            assert not any((mask & ~earlier[key]).any() for key, mask in masks.items())
        model, earlier = copy.deepcopy(model), masks
        apply_masks_(model, masks)
        for parameter in model.parameters():  # training between the shots
            parameter.data.mul_(torch.rand_like(parameter) + 0.5)
    check_masks(model)
    assert all(torch.equal(value, state[key]) for key, value in dense.state_dict().items())


# converters and networks

SPECIAL = [
    name
    for name, cls in ALL_CONVERTERS.items()
    if any(getattr(layer, 'special_backward', False) for layer in cls.classes.values())
]
PAIRS = [
    *itertools.product(ALL_NETWORKS, ALL_CONVERTERS),
    *itertools.product([name for name in NETWORKS if name not in ALL_NETWORKS], SPECIAL),
]


def train(model: nn.Module, steps: int = 2) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


@pytest.fixture
def converted(name, converter):
    """(a network, what it was before, the converter)"""
    before = small_network(name)
    convert = CONVERTERS.build(config(converter, ALL_CONVERTERS[converter]))
    if not any(convert.class_for(layer) for layer in before.modules()):
        with pytest.raises(ValueError, match=f'{converter}: .* has nothing to convert'):
            convert(before)
        pytest.skip('it has no layer for it')
    return initialize_(convert(copy.deepcopy(before))), before, convert


# by default one network with every converter, and every network with one but those that take longest
@pytest.mark.parametrize(
    ('name', 'converter'),
    [
        (name, kind)
        if name == 'CIFARResNet' or (kind == 'PSG' and name not in ('TimmModel', 'TorchvisionModel', 'bottlenecks'))
        else pytest.param(name, kind, marks=pytest.mark.slow)
        for name, kind in PAIRS
    ],
)
def test_a_converted_network_is_pruned_trains_saves_and_merges(converted):
    model, before, convert = converted
    for own, other in zip(model.modules(), before.modules(), strict=True):
        assert isinstance(own, type(other))
    state = model.state_dict()
    assert all(state[key].shape == value.shape for key, value in before.state_dict().items())

    masks = Rand(density=0.5).prune(model, seed=1)
    assert masks.keys() == {f'{at}.weight' for at, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    apply_masks_(model, masks)
    start = {key: p.detach().clone() for key, p in model.named_parameters()}
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    layers = layers_with_used_weight(model)
    assert {name for name, layer in layers.items() if not layer.trains_weight} == layers.keys() & frozen
    train(model)
    changed = {key for key, p in model.named_parameters() if not torch.equal(p, start[key])}
    assert changed == start.keys() - frozen
    assert all(p.isfinite().all() for p in model.parameters())
    check_masks(model)

    model.eval()
    with torch.no_grad():
        logits = model(images)
        assert logits.shape == (4, 7)
        assert logits.isfinite().all()
        twin = convert(copy.deepcopy(before)).eval()
        register_masks_(twin)
        twin.load_state_dict(copy.deepcopy(model.state_dict()))
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        assert torch.equal(twin(images), logits)
        assert torch.equal(copy.deepcopy(model)(images), logits)
        assert torch.equal(pickle.loads(pickle.dumps(model))(images), logits)
        torch.testing.assert_close(last(images), logits, rtol=1e-3, atol=1e-4)
        merge_latents_(model)
        assert torch.equal(model(images), logits)
    assert not layers_with_used_weight(model)


@pytest.mark.parametrize('converter', SPECIAL)
@pytest.mark.parametrize('name', NETWORKS)
def test_a_special_backward_pass_can_be_the_ordinary_one(converted):
    model, before, _ = converted
    assert list(special_layers(model))
    before.load_state_dict(model.state_dict())
    for trained in (model, before):
        with exact_gradients(trained):
            F.cross_entropy(trained(images), labels).backward()
    for (key, one), other in zip(model.named_parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=key)


# whole runs


SHORT = dict(batch_size=8, dataset=dict(num_samples=64))


def by_config(cfg, part: str, name: str):
    """The config of a small run with a member put in by its name."""
    if part == 'optimizer':
        cfg.optim_wrapper.optimizers.signs = dict(type=name, owns=['Conv2d.weight'])
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
        by_config(tiny_config(train_cfg=dict(max_epochs=1), train_dataloader=SHORT), part, name)
    )
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 8
    assert torch.tensor(losses).isfinite().all()
    if part == 'optimizer':
        scalars = runner.message_hub.log_scalars
        assert max(scalars[name].current() for name in scalars.keys() & {'flips/total', 'moves/total'}) > 0
