"""Masks hold under every optimizer, through copies and checkpoints, and contradictions are refused."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pab.pruners import apply_masks_, check_masks, check_state_masks, get_masks, register_masks_
from pab.pruners.masks import ELEMENTWISE
from pab.registry import PRUNERS

SETTINGS = {'SGD': dict(lr=0.1, momentum=0.9, weight_decay=1e-2), 'Rprop': {}}
OPTIMIZERS = {
    cls.__name__: lambda params, cls=cls: cls(params, **SETTINGS.get(cls.__name__, dict(lr=0.01, weight_decay=1e-2)))
    for cls in sorted(ELEMENTWISE, key=lambda cls: cls.__name__)
}
OPTIMIZERS['nesterov'] = lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True)
OPTIMIZERS['centered'] = lambda params: torch.optim.RMSprop(params, lr=0.01, momentum=0.9, centered=True)


class Blend(torch.optim.SGD):
    """Mixes entries: every weight moves by its row's mean gradient, too."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step()
        for param in self.param_groups[0]['params']:
            param.sub_(param.grad.flatten(1).mean(1).view(-1, *[1] * (param.dim() - 1)), alpha=0.1)


MIXING = {
    'Blend': lambda net: Blend([p for p in net.parameters() if p.dim() > 1], lr=0.1, momentum=0.9),
    'Muon': lambda net: torch.optim.Muon([net.fc.weight], lr=0.1),
}
if not hasattr(torch.optim, 'Muon'):  # it came with torch 2.9
    del MIXING['Muon']


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


@pytest.mark.parametrize('made', ['before', 'after', 'for a copy'])
@pytest.mark.parametrize('optimizer', MIXING)
def test_pruned_weights_stay_zero_under_an_optimizer_that_mixes_entries(optimizer, made, net, masks, batches):
    make = MIXING[optimizer]
    early = make(net)
    train(net, early, batches)
    apply_masks_(net, masks, early)
    net = copy.deepcopy(net) if made == 'for a copy' else net
    train(net, early if made == 'before' else make(net), batches)
    check_masks(net)
    assert net.fc.weight[masks['fc.weight']].all()


@pytest.mark.parametrize('optimizer', MIXING)
def test_only_optimizers_that_mix_entries_pay(optimizer, net, masks, batches, monkeypatch):
    apply_masks_(net, masks)
    optimizer = MIXING[optimizer](net)
    monkeypatch.setattr('pab.pruners.masks.ELEMENTWISE', {type(optimizer)})  # as if it did not mix
    train(net, optimizer, batches)
    with pytest.raises(ValueError, match=r'contradicts its mask'):
        check_masks(net)


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
    train(twin, OPTIMIZERS['SGD'](twin.parameters()), batches)
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
    train(net, OPTIMIZERS['Adam'](net.parameters()), [(x.double(), y) for x, y in batches])
    assert_pruned(net, masks)


def test_frozen_weights_take_masks(net, masks, batches):
    net.conv1.weight.requires_grad_(False)
    apply_masks_(net, masks)
    net.conv1.weight.requires_grad_(True)
    train(net, OPTIMIZERS['SGD'](net.parameters()), batches)
    assert_pruned(net, masks)


def test_hooks_are_put_back_once(net, masks, batches):
    apply_masks_(net, masks)
    apply_masks_(net, masks)
    net(batches[0][0])
    assert len(net.conv1.weight._backward_hooks) == 1
    twin = copy.deepcopy(net)
    assert not twin.conv1.weight._backward_hooks
    register_masks_(twin)
    register_masks_(twin)
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
    train(fresh, OPTIMIZERS['SGD'](fresh.parameters()), batches)
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
    train(model, OPTIMIZERS['SGD'](model.parameters()), batches)
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
