"""The pattern language, on parameters and on whole layers, by lists that can be checked by eye."""

import pytest
from torch import nn

from pab.patterns import Patterns, places_of_parameters


class Wide(nn.Conv2d):
    """A subclass, which is a Conv2d to a pattern."""


def network():
    block = nn.ModuleDict(dict(conv=Wide(4, 4, 3, bias=False), shortcut=nn.Conv2d(4, 4, 1)))
    return nn.ModuleDict(dict(stem=nn.Conv2d(3, 4, 3), block=block, head=nn.Linear(4, 2)))


@pytest.mark.parametrize(
    ('patterns', 'selected'),
    [
        (['Conv2d'], 'stem.weight stem.bias block.conv.weight block.shortcut.weight block.shortcut.bias'),
        (['Wide'], 'block.conv.weight'),
        (['Conv2d.weight'], 'stem.weight block.conv.weight block.shortcut.weight'),
        (['name:block.*'], 'block.conv.weight block.shortcut.weight block.shortcut.bias'),
        (['name:*.bias', 'Linear'], 'stem.bias block.shortcut.bias head.weight head.bias'),
        (['Conv2d.weight', '!name:*.shortcut.*'], 'stem.weight block.conv.weight'),
        (['!name:*.shortcut.*', 'Conv2d.weight'], 'stem.weight block.conv.weight'),
        (['name:*', '!Conv2d', '!Linear.bias'], 'head.weight'),
        (['Conv2d.bias', '!Wide'], 'stem.bias block.shortcut.bias'),
    ],
)
def test_parameters(patterns, selected):
    patterns = Patterns('test', patterns)
    found = [places[0].full_name for places in places_of_parameters(network()).values() if patterns.select(*places[0])]
    assert found == selected.split()
    assert not patterns.unused


@pytest.mark.parametrize(
    ('patterns', 'selected'),
    [
        (['Conv2d'], 'stem block.conv block.shortcut'),
        (['Conv2d', '!name:stem'], 'block.conv block.shortcut'),
        (['name:*', '!ModuleDict', '!Wide'], 'stem block.shortcut head'),
    ],
)
def test_layers(patterns, selected):
    patterns = Patterns('test', patterns)
    found = [name for name, layer in network().named_modules() if name and patterns.select(layer, name)]
    assert found == selected.split()
    assert not patterns.unused


def test_what_matches_nothing():
    patterns = Patterns('test', ['Conv2d', 'Conv3d', '!name:tail.*', 'Linear.scale'])
    for places in places_of_parameters(network()).values():
        patterns.select_shared(places)
    assert patterns.unused == {'Conv3d', '!name:tail.*', 'Linear.scale'}


def test_a_shared_parameter_is_matched_by_any_of_its_places():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model.append(model[1])
    places = places_of_parameters(model)[model[0].weight]
    assert [place.full_name for place in places] == ['0.weight', '1.weight', '2.weight']
    assert Patterns('test', ['name:1.*']).select_shared(places)
    assert not Patterns('test', ['Linear', '!name:2.*']).select_shared(places)


@pytest.mark.parametrize(
    ('patterns', 'error', 'text'),
    [
        ('Conv2d', TypeError, r"Mag: prunable must be a list of patterns such as \['Conv2d', .*\], got 'Conv2d'"),
        (None, TypeError, 'Mag: prunable must be a list of patterns .* got None'),
        ([nn.Conv2d], TypeError, 'Mag: prunable must be a list of patterns .*Conv2d'),
        ([], ValueError, r'Mag: prunable selects nothing, got \[\]; name what to take first'),
        (['!Linear'], ValueError, r"Mag: prunable selects nothing, got \['!Linear'\]"),
    ],
)
def test_lists_that_are_none(patterns, error, text):
    with pytest.raises(error, match=text):
        Patterns('Mag: prunable', patterns)
