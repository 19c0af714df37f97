"""Masks in a model and in its checkpoints; contradictions are refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from pab.pruners import apply_masks_, check_masks, check_state_masks, drop_masks_, get_masks, register_masks_
from tests.test_pruners.pruning import BOTH, assert_pruned, build, train


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
    train(fresh, torch.optim.SGD(fresh.parameters(), lr=0.1), batches)
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


def test_a_layer_that_a_network_uses_twice(batches):
    layer = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(layer, nn.ReLU(), layer, nn.Flatten(), nn.Linear(192, 10))
    mask = torch.rand(3, 3, 3, 3) < 0.5
    apply_masks_(model, {'0.weight': mask})
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), batches)
    assert_pruned(model, {'0.weight': mask})
    assert list(get_masks(model)) == ['0.weight']
    twin = copy.deepcopy(model)
    twin.load_state_dict(model.state_dict())
    wrong = dict(model.state_dict(), **{'2.weight': torch.ones(3, 3, 3, 3)})
    with pytest.raises(ValueError, match=r"'2.weight' contradicts its mask"):
        check_state_masks(model, wrong)


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


COMPUTED = {
    'weight_norm': parametrizations.weight_norm,
    'spectral_norm': parametrizations.spectral_norm,
    'old weight_norm': nn.utils.weight_norm,
    'prune': lambda layer: prune.l1_unstructured(layer, 'weight', 0.5),
}


@pytest.mark.filterwarnings('ignore:.*weight_norm.* is deprecated')
@pytest.mark.parametrize('compute', COMPUTED)
def test_a_weight_that_is_computed_from_others_is_not_pruned(compute, net):
    COMPUTED[compute](net.conv2)
    for use in (build('Mag', prunable=BOTH).prune, lambda net: register_masks_(net, BOTH)):
        with pytest.raises(ValueError, match=r"prunable: 'conv2.weight' is no parameter .* '!name:conv2.weight'"):
            use(net)
    assert list(build('Mag', prunable=(*BOTH, '!name:conv2.weight')).prune(net)) == [
        'conv1.weight',
        'short.weight',
        'fc.weight',
    ]
    build('Mag', prunable=['Linear']).prune(net)


def test_a_mask_that_another_pruning_takes_along_is_missed(net, masks, batches):
    """torch.nn.utils.prune.remove deletes the buffer of that name, which is ours."""
    apply_masks_(net, masks)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    prune.remove(prune.l1_unstructured(net.conv2, 'weight', amount=5), 'weight')
    text = r"the mask of 'conv2.weight' is gone \(torch.nn.utils.prune.remove .*; set one by apply_masks_"
    with pytest.raises(ValueError, match=text):
        check_masks(net)
    with pytest.raises(ValueError, match=text):
        net(batches[0][0])
    with pytest.raises(ValueError, match=text):
        optimizer.step()
    with pytest.raises(ValueError, match=text):
        check_masks(copy.deepcopy(net))
    apply_masks_(net, {'conv2.weight': net.conv2.weight != 0})
    net(batches[0][0]).sum().backward()
    optimizer.step()
    check_masks(net)
    assert_pruned(net, {'conv2.weight': masks['conv2.weight']})


def test_masks_that_are_dropped_are_not_missed(net, masks, batches):
    apply_masks_(net, masks)
    twin = copy.deepcopy(net)
    drop_masks_(twin)
    assert not get_masks(twin)
    check_masks(twin)
    assert torch.equal(twin.conv2.weight, net.conv2.weight)
    twin(batches[0][0]).sum().backward()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    assert (twin.conv2.weight[~masks['conv2.weight']] != 0).any()
    net(batches[0][0])
    check_masks(net)
    assert get_masks(net).keys() == masks.keys()


@pytest.mark.filterwarnings('ignore:.*weight_norm.* is deprecated')
@pytest.mark.parametrize('called', [True, False])
@pytest.mark.parametrize('compute', COMPUTED)
def test_a_masked_weight_that_is_then_computed_from_others_is_refused(compute, called, net, masks, batches):
    apply_masks_(net, masks)
    other = torch.optim.SGD(copy.deepcopy(net).parameters(), lr=0.1)
    COMPUTED[compute](net.conv2)
    text = r"'conv2.weight' is no parameter any more that its mask fits"
    with pytest.raises(ValueError, match=text):
        check_masks(net)
    with pytest.raises(ValueError, match=text):
        if called:
            net(batches[0][0])
        else:
            torch.optim.SGD(net.parameters(), lr=0.1).step()
    other.step()  # of another network


def test_masks_hold_again_without_the_parametrization(net, masks, batches):
    apply_masks_(net, masks)
    parametrizations.spectral_norm(net.conv2)
    nn.utils.parametrize.remove_parametrizations(net.conv2, 'weight')
    train(net, torch.optim.SGD(net.parameters(), lr=0.1), batches)
    assert_pruned(net, masks)


class Quantized(torch.Tensor):
    """Entries that nothing but dequantize() gives, as torchao's tensors have them."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = getattr(func, '__name__', '')
        if name not in ('detach', 'dequantize', 'requires_grad_', '__get__'):
            raise NotImplementedError(name)
        return super().__torch_function__(func, types, args, kwargs or {})

    def dequantize(self):
        return self.as_subclass(torch.Tensor)


def test_quantized_weights_are_checked_by_their_values(net, masks):
    apply_masks_(net, masks)
    for entries in (net.fc.weight.detach(), torch.ones(10, 16)):
        net.fc.weight = nn.Parameter(entries.as_subclass(Quantized), requires_grad=False)
        if entries.all():
            with pytest.raises(ValueError, match=r"'fc.weight' contradicts its mask"):
                check_masks(net)
        else:
            check_masks(net)
