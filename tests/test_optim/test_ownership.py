import pytest
from torch import nn

from pab.models import ImageClassifier
from pab.optim import assign_owners


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


REST = ['0.bias', '1.weight', '1.bias', '3.weight', '3.bias']


@pytest.mark.parametrize(
    ('rules', 'owned'),
    [
        (dict(signs=['Conv2d.weight'], sgd='rest'), dict(signs=['0.weight'], sgd=REST)),
        (dict(signs=['Conv2d', '!Conv2d.bias'], sgd='rest'), dict(signs=['0.weight'], sgd=REST)),
        (dict(head=['name:3.*'], sgd=['Conv2d', '_BatchNorm']), dict(head=REST[3:], sgd=['0.weight', *REST[:3]])),
    ],
)
def test_owners_of_a_small_network(rules, owned):
    assert {name: list(params) for name, params in assign_owners(net(), rules).items()} == owned


def test_names_are_those_of_the_network_as_for_pruners():
    rules = dict(head=['name:3.*'], stem=['name:network.0.*', '!name:0.bias'], sgd='rest')
    owned = assign_owners(ImageClassifier(net()), rules)
    assert list(owned['head']) == ['network.3.weight', 'network.3.bias']
    assert list(owned['stem']) == ['network.0.weight']


def test_frozen_parameters_have_no_owner_and_shared_ones_count_once():
    model = nn.Sequential(*net(), nn.Conv2d(3, 4, 3))
    model[1].requires_grad_(False)
    model[4].weight = model[0].weight
    owned = assign_owners(model, dict(signs=['Conv2d.weight'], sgd='rest'))
    assert list(owned['signs']) == ['0.weight']
    assert list(owned['sgd']) == ['0.bias', '3.weight', '3.bias', '4.bias']


@pytest.mark.parametrize(
    'rules, message',
    [
        (dict(signs=['Conv2d.weight'], sgd=['Conv2d', 'BatchNorm2d', 'Linear']), r'by two optimizers: 0.weight \('),
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
