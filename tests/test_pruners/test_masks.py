"""Masks hold under every optimizer, through copies and checkpoints, and contradictions are refused."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pab.pruners import (
    apply_masks_,
    check_masks,
    check_state_masks,
    get_masks,
    install_mask_hooks_,
    register_masks_,
)
from pab.registry import PRUNERS

OPTIMIZERS = {
    'sgd': lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
    'nesterov': lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    'adam': lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-2),
    'adamw': lambda p: torch.optim.AdamW(p, lr=0.01),
    'rmsprop': lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
}


@pytest.fixture
def masks(net):
    return PRUNERS.build(dict(type='SynFlow', density=0.3, prunable=('Conv2d', 'Linear'))).prune(
        net, input_shape=(3, 8, 8)
    )


def train(model, optimizer, batches, steps=3):
    for _ in range(steps):
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()


def assert_pruned(model, masks):
    check_masks(model)
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert not weight[~mask].any()
        assert weight[mask].all()
        if weight.grad is not None:
            assert not weight.grad[~mask].any()
            assert weight.grad[mask].any()


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_pruned_weights_stay_zero(optimizer, net, masks, batches):
    apply_masks_(net, masks)
    train(net, OPTIMIZERS[optimizer](net.parameters()), batches)
    assert_pruned(net, masks)


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_momentum_from_before_the_pruning_moves_nothing(optimizer, net, masks, batches):
    optimizer = OPTIMIZERS[optimizer](net.parameters())
    train(net, optimizer, batches)
    assert net.conv1.weight.grad[~masks['conv1.weight']].any()
    apply_masks_(net, masks, [optimizer])
    assert not net.conv1.weight.grad[~masks['conv1.weight']].any()
    optimizer.step()  # with what is left of the last gradient
    train(net, optimizer, batches)
    assert_pruned(net, masks)


def test_the_gradient_is_that_of_the_product(net, masks, batches):
    dense = copy.deepcopy(net)
    apply_masks_(net, masks)
    for name, mask in masks.items():
        dense.get_parameter(name).data.mul_(mask)
    for model in (net, dense):
        F.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    for name, parameter in net.named_parameters():
        want = dense.get_parameter(name).grad
        assert torch.equal(parameter.grad, want * masks[name] if name in masks else want)


def clone_by_deepcopy(model):
    return copy.deepcopy(model)


def clone_by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def clone_by_save(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize('clone', [clone_by_deepcopy, clone_by_pickle, clone_by_save])
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_masks_hold_in_a_copy(clone, net, masks, batches):
    apply_masks_(net, masks)
    twin = clone(net)
    train(twin, OPTIMIZERS['sgd'](twin.parameters()), batches)
    assert_pruned(twin, masks)
    assert_pruned(net, masks)
    broken = dict(twin.state_dict(), **{'conv1.weight': torch.ones_like(net.conv1.weight)})
    with pytest.raises(ValueError, match=r'contradicts its mask'):
        twin.load_state_dict(broken)


def test_masks_hold_for_a_new_parameter_and_dtype(net, masks, batches):
    apply_masks_(net, masks)
    net.conv1.weight = nn.Parameter(net.conv1.weight.detach().clone())
    net.double()
    assert net.conv1.weight_mask.dtype == torch.bool
    train(net, OPTIMIZERS['adam'](net.parameters()), [(x.double(), y) for x, y in batches])
    assert_pruned(net, masks)


def test_frozen_weights_take_masks(net, masks, batches):
    net.conv1.weight.requires_grad_(False)
    apply_masks_(net, masks)
    net.conv1.weight.requires_grad_(True)
    train(net, OPTIMIZERS['sgd'](net.parameters()), batches)
    assert_pruned(net, masks)


def test_hooks_are_put_back_once(net, masks, batches):
    apply_masks_(net, masks)
    apply_masks_(net, masks)
    net(batches[0][0])
    assert len(net.conv1.weight._backward_hooks) == 1
    twin = copy.deepcopy(net)
    assert not twin.conv1.weight._backward_hooks
    install_mask_hooks_(twin)
    install_mask_hooks_(twin)
    assert len(twin.conv1.weight._backward_hooks) == 1
    assert len(twin.conv1._forward_pre_hooks) == 1


def test_state_dict_round_trip(net, masks, batches):
    fresh = copy.deepcopy(net)
    apply_masks_(net, masks)
    state = net.state_dict()
    assert state['conv1.weight_mask'].dtype == torch.bool
    register_masks_(fresh, ('Conv2d', 'Linear'))
    check_state_masks(fresh, state)
    fresh.load_state_dict(state)
    assert get_masks(fresh).keys() == masks.keys()
    assert all(torch.equal(get_masks(fresh)[name], masks[name]) for name in masks)
    train(fresh, OPTIMIZERS['sgd'](fresh.parameters()), batches)
    assert_pruned(fresh, masks)


def test_register_is_idempotent_and_keeps_all(net, batches):
    assert get_masks(net) == {}
    first = register_masks_(net)
    assert sorted(first) == ['conv1.weight', 'conv2.weight', 'short.weight']
    assert all(mask.all() for mask in first.values())
    again = register_masks_(net)
    assert all(again[name] is first[name] for name in first)
    assert len(net.conv1._forward_pre_hooks) == 1


def test_masks_that_cannot_be_applied(net, masks):
    before = copy.deepcopy(net.state_dict())
    for bad, text in [
        (
            {'nothing.weight': masks['conv1.weight']},
            "ShortcutNet has no parameter 'nothing.weight'; it has conv1.weight",
        ),
        ({'conv1.weight': masks['conv2.weight']}, "the mask of 'conv1.weight' has shape .*, its weight"),
        ({'conv1.weight': masks['conv1.weight'].int()}, "the mask of 'conv1.weight' must be bool, got torch.int32"),
    ]:
        with pytest.raises(ValueError, match=text):
            apply_masks_(net, {**masks, **bad})
    assert before.keys() == net.state_dict().keys()
    apply_masks_(net, masks)
    with pytest.raises(ValueError, match=r"the mask of 'conv1.weight' revives a pruned weight"):
        apply_masks_(net, {'conv1.weight': torch.ones_like(masks['conv1.weight'])})


def test_check_masks_names_the_tensor(net, masks):
    apply_masks_(net, masks)
    net.conv2.weight.data.fill_(1)
    with pytest.raises(ValueError, match=r"'conv2.weight' contradicts its mask: \d+ pruned weights are not 0"):
        check_masks(net)


def test_state_dicts_that_do_not_fit(net, masks):
    dense = copy.deepcopy(net)
    apply_masks_(net, masks)
    state = net.state_dict()
    wrong = dict(state, **{'conv1.weight': torch.ones_like(net.conv1.weight)})
    missing = {key: value for key, value in state.items() if key != 'conv1.weight_mask'}
    shape = dict(state, **{'conv1.weight_mask': torch.ones(3, dtype=torch.bool)})
    numbers = dict(state, **{'conv1.weight_mask': state['conv1.weight_mask'].float()})
    for bad, text in [
        (wrong, "'conv1.weight' contradicts its mask"),
        (missing, "no (mask )?'conv1.weight_mask'"),
        (shape, "the mask of 'conv1.weight' has shape"),
        (numbers, "the mask of 'conv1.weight' must be bool, got torch.float32"),
    ]:
        with pytest.raises(ValueError, match=text):
            check_state_masks(net, bad)
        for strict in (True, False):
            with pytest.raises(ValueError, match=text):
                net.load_state_dict(bad, strict=strict)
    with pytest.raises(ValueError, match=r"the state dict has a mask '.*', but the model has none there"):
        check_state_masks(dense, state)
    prefixed = {f'net.{key}': value for key, value in state.items()}
    check_state_masks(net, prefixed, prefix='net.')
    with pytest.raises(ValueError, match=r"has no mask 'net.conv1.weight_mask'"):
        check_state_masks(net, {k: v for k, v in prefixed.items() if k != 'net.conv1.weight_mask'}, prefix='net.')


def test_nothing_multiplies_by_a_mask_in_the_forward_pass(net, masks, batches):
    apply_masks_(net, masks)
    net.conv1.weight.data.fill_(1)
    assert net.conv1(batches[0][0]).eq(F.conv2d(batches[0][0], net.conv1.weight, padding=1)).all()
