import pytest
from torch import nn

from pab.models import ImageClassifier
from pab.optim import assign_owners


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_rules_by_layer_type_and_the_rest():
    owned = assign_owners(net(), dict(signs=['Conv2d.weight'], sgd='rest'))
    assert {name: list(params) for name, params in owned.items()} == {
        'signs': ['0.weight'],
        'sgd': ['0.bias', '1.weight', '1.bias', '3.weight', '3.bias'],
    }


def test_a_type_covers_its_subclasses():
    class MyConv(nn.Conv2d):
        pass

    model = nn.Sequential(MyConv(1, 1, 1), nn.BatchNorm2d(1))
    owned = assign_owners(model, dict(signs=['Conv2d'], sgd=['_BatchNorm']))
    assert list(owned['signs']) == ['0.weight', '0.bias']


def test_globs_over_names():
    owned = assign_owners(net(), dict(head=['name:3.*'], sgd='rest'))
    assert list(owned['head']) == ['3.weight', '3.bias']


def test_what_a_pattern_leaves_out_goes_to_the_rest():
    model = nn.ModuleDict(dict(conv=nn.Conv2d(3, 4, 3), shortcut=nn.Conv2d(3, 4, 1), head=nn.Linear(4, 2)))
    owned = assign_owners(model, dict(signs=['Conv2d', '!name:shortcut.*', '!Conv2d.bias'], sgd='rest'))
    assert list(owned['signs']) == ['conv.weight']
    assert list(owned['sgd']) == ['conv.bias', 'shortcut.weight', 'shortcut.bias', 'head.weight', 'head.bias']


def test_names_are_those_of_the_network_as_for_pruners():
    rules = dict(head=['name:3.*'], stem=['name:network.0.*', '!name:0.bias'], sgd='rest')
    owned = assign_owners(ImageClassifier(net()), rules)
    assert list(owned['head']) == ['network.3.weight', 'network.3.bias']
    assert list(owned['stem']) == ['network.0.weight']


def test_frozen_parameters_have_no_owner():
    model = net()
    model[1].requires_grad_(False)
    owned = assign_owners(model, dict(signs=['Conv2d.weight'], sgd='rest'))
    assert list(owned['sgd']) == ['0.bias', '3.weight', '3.bias']


def test_shared_parameters_count_once():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))
    model[1].weight = model[0].weight
    owned = assign_owners(model, dict(signs=['Conv2d.weight'], sgd='rest'))
    assert list(owned['signs']) == ['0.weight']


@pytest.mark.parametrize(
    'rules, message',
    [
        (
            dict(signs=['Conv2d.weight'], sgd=['Conv2d', 'BatchNorm2d', 'Linear']),
            r'claimed by two optimizers: 0.weight \(',
        ),
        (dict(signs=['Conv2d.weight'], sgd=['Linear']), r'owned by none: 0.bias, 1.weight, 1.bias'),
        (dict(signs=['Conv3d.weight'], sgd='rest'), r"matching no trainable parameter: 'Conv3d.weight' of signs"),
        (dict(a='rest', b='rest'), r"only one optimizer may own 'rest', got a and b"),
        (dict(signs=['Conv2d', '!name:7.*'], sgd='rest'), r"matching no trainable parameter: '!name:7.\*' of signs"),
        (dict(signs=['name:*'], sgd='rest'), r'left with nothing to train: sgd'),
    ],
)
def test_parameters_with_no_owner_or_two_are_named(rules, message):
    with pytest.raises(ValueError, match=message):
        assign_owners(net(), rules)


def test_a_rule_that_is_no_list():
    message = "ownership: owns of 'signs', unless it is 'rest', must be a list of patterns .* got 'Conv2d.weight'"
    with pytest.raises(TypeError, match=message):
        assign_owners(net(), dict(signs='Conv2d.weight', sgd='rest'))
