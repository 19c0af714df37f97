"""Densities by layer: counts by hand on tensors of 216, 1152, 128 and 160 weights, and what is refused."""

import functools
from fractions import Fraction

import pytest
from torch import nn

from pab.pruners import apply_masks_, linear
from pab.pruners.allocation import erk
from tests.test_pruners.pruning import ALL, BOTH, build


def counts(masks):
    return [int(mask.sum()) for mask in masks.values()]


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('rounds', [1, 3])
def test_every_pruner_keeps_the_densities_by_layer(name, rounds, net, batches, flips):
    density = [('name:conv1.*', 0.7), ('Linear', 0.5), ('rest', 0.1)]
    masks = build(name, density, rounds=rounds, prunable=BOTH).prune(net, batches, flips=flips)
    conv1, conv2, short, fc = counts(masks)
    # 216 - floor(64.8); of 1152 + 128 = 1280 in competition 1280 - floor(1152)
    assert (conv1, conv2 + short, fc) == (152, 128, 80)


@pytest.mark.parametrize(
    ('density', 'settings', 'expected'),
    [
        ([('rest', 0.1)], {}, 166),  # as a number: 1656 - floor(1490.4)
        ([('total', 0.1)], {}, 166),
        ([('Linear', 1), ('total', 0.1)], {}, [(3, 160), (slice(3), 6)]),
        # of 166 the first takes 216 - floor(205.2) = 11 and the last 160 - floor(152) = 8: 147 of 1280 are left
        ([('name:conv1.*', 0.05), ('Linear', 0.05), ('total', 0.1)], {}, [(0, 11), (slice(1, 3), 147), (3, 8)]),
        # each by its own: 1152 - floor(1152 * 1133 / 1280) = 1152 - 1019, 128 - floor(113.3)
        (
            [('name:conv1.*', 0.05), ('Linear', 0.05), ('total', 0.1)],
            dict(scope='local'),
            [(0, 11), (1, 133), (2, 15), (3, 8)],
        ),
        # 147 for sums of dimensions of 30 and 26: f = 147/56 = 2.625, floors 78 and 68 are one short; 79/30 < 69/26
        (
            [('name:conv1.*', 0.05), ('Linear', 0.05), ('total', 0.1)],
            dict(scope='local', allocation='erk'),
            [(0, 11), (1, 79), (2, 68), (3, 8)],
        ),
        ([('Conv2d', 0.5), ('Linear', 0.3)], {}, [(0, 108), (1, 576), (2, 64), (3, 48)]),  # no others
        ([['Linear', 0.3], ['rest', 1]], dict(scope='local'), [(0, 216), (1, 1152), (2, 128), (3, 48)]),
    ],
)
def test_counts_by_hand(density, settings, expected, net):
    kept = counts(build('Mag', density, rounds=2, prunable=BOTH, **settings).prune(net))
    if isinstance(expected, int):
        assert sum(kept) == expected
        return
    for where, count in expected:
        assert sum(kept[where]) if isinstance(where, slice) else kept[where] == count
    if ('total', 0.1) in density and settings != dict(scope='local'):  # where every tensor rounds up by itself
        assert sum(kept) == 166


def test_rest_and_total_alone_are_a_number(net):
    number = build('Mag', 0.3, rounds=3, scope='local', prunable=BOTH).groups(net)
    for key in ('rest', 'total'):
        assert build('Mag', [(key, 0.3)], rounds=3, scope='local', prunable=BOTH).groups(net) == number


def test_rounds_lead_each_density_by_the_schedule(net):
    seen = []
    pruner = build('Mag', [('Linear', 0.5), ('rest', 0.25)], rounds=2, schedule='linear', prunable=['Linear', 'Conv2d'])
    score = pruner.score

    def watched(weights):
        seen.append([int(weight.count_nonzero()) for weight in weights.values()])
        return score(weights)

    pruner.score = watched
    pruner.prune(net)
    *rest, fc = seen[1]  # after the first of two rounds: 3/4 of 160, 5/8 of 1496
    assert (sum(seen[0]), fc, sum(rest)) == (1656, 120, 935)


@pytest.mark.parametrize('allocation', ['uniform', 'erk'])
def test_shots_lead_each_density_by_the_schedule(allocation, net):
    """Densities 1, 0.5 and what the total leaves; with three shots of which each keeps a part of the one before."""
    density = [('name:conv1.*', 1.0), ('Linear', 0.5), ('total', 0.3)]
    pruner, earlier = build('Mag', density, scope='local', allocation=allocation, prunable=BOTH, rounds=2), None
    share = Fraction(497 - 216 - 80, 1280)  # 1656 - floor(1159.2) = 497
    for shot in (1, 2, 3):
        masks = pruner.prune(net, shot=functools.partial(linear, done=shot, rounds=3))
        conv1, conv2, short, fc = counts(masks)
        rest = 1 - (1 - share) * Fraction(shot, 3)
        assert (conv1, fc) == (216, {1: 134, 2: 107, 3: 80}[shot])
        if allocation == 'erk':
            assert [conv2, short] == erk([(16, 8, 3, 3), (16, 8, 1, 1)], rest)
        else:
            assert [conv2, short] == [size - int((1 - rest) * size) for size in (1152, 128)]
        assert earlier is None or not any((mask & ~earlier[name]).any() for name, mask in masks.items())
        apply_masks_(net, masks)
        earlier = masks


def test_a_dense_rest_stays_dense_in_every_shot(net):
    """The total is what the others need: rounding on the way must ask for no weight that an earlier shot removed."""
    kept = 1152 + 128 + (216 - int(216 * Fraction('0.63'))) + (160 - int(160 * Fraction('0.63')))
    density = [('name:conv1.*', 0.37), ('Linear', 0.37), ('total', Fraction(kept, 1656))]
    pruner = build('Mag', density, prunable=BOTH)
    for shot in range(1, 8):
        masks = pruner.prune(net, shot=functools.partial(linear, done=shot, rounds=7))
        assert masks['conv2.weight'].all()
        assert masks['short.weight'].all()
        apply_masks_(net, masks)
    assert sum(counts(masks)) == kept


def test_a_shared_weight_is_named_by_either_place():
    net = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False))
    net[1].weight = net[0].weight
    assert counts(build('Mag', [('name:1.*', 0.5), ('rest', 0.25)]).prune(net)) == [8, 4]
    with pytest.raises(ValueError, match=r"'name:0.\*' and 'name:1.\*' both name 0.weight; give each tensor"):
        build('Mag', [('name:0.*', 0.5), ('name:1.*', 0.5), ('rest', 0.25)]).prune(net)


def test_floors_leave_a_density_of_its_own_alone(net):
    density = [('Linear', 0.1), ('rest', 0.02)]  # 16, and 1496 - floor(1466.08) = 30
    plain = build('Mag', density, scope='local', prunable=BOTH)
    assert counts(plain.prune(net)) == [5, 24, 3, 16]
    floored = build('Mag', density, scope='local', prunable=BOTH, min_per_tensor=10)
    assert counts(floored.prune(net)) == [10, 12, 10, 16]  # the one with the most to spare pays
    with pytest.raises(
        ValueError, match=r'min_per_tensor: fc.weight needs 17 weights, but its density 0.1 keeps 16; lower'
    ):
        build('Mag', density, prunable=BOTH, min_per_tensor=17).prune(net)


@pytest.mark.parametrize(
    ('density', 'error', 'text'),
    [
        ([], ValueError, r"density needs a pattern, 'rest' or 'total', and not both, got \[\]"),
        ([('rest', 0.3), ('total', 0.3)], ValueError, "density needs a pattern, 'rest' or 'total', and not both, got"),
        ([0.3], TypeError, r'density must be a number or a list of \(pattern, density\), such as .*, got \[0.3\]'),
        ([('Linear', 0.3, 1)], TypeError, 'density must be a number or a list of'),
        (['ab'], TypeError, r"density of 'a' must lie in \(0, 1\], got 'b'"),
        ({'Linear': 0.3}, TypeError, r"density must lie in \(0, 1\], got {'Linear': 0.3}"),
        ([('Linear', 0), ('rest', 1)], ValueError, r"density of 'Linear' must lie in \(0, 1\], got 0"),
        ([('rest', 1.5)], ValueError, r"density of 'rest' must lie in \(0, 1\], got 1.5"),
        ([('Linear', 1), ('Linear', 0.5)], ValueError, "density: 'Linear' is there twice; give one density for each"),
        ([('!Linear', 1)], ValueError, "density: '!Linear' names no weight; give one density for each pattern"),
    ],
)
def test_lists_that_are_refused(density, error, text):
    with pytest.raises(error, match=f'Mag: {text}'):
        build('Mag', density)


@pytest.mark.parametrize(
    ('density', 'text'),
    [
        (
            [('Conv3d', 1), ('rest', 1)],
            r"'Conv3d' names none of the prunable weights, conv1.weight, .* and [0-9]+ more; corr",
        ),
        ([('name:bn1.*', 1), ('rest', 0.5)], r"'name:bn1.\*' names none of the prunable weights"),
        ([('Conv2d', 1), ('name:short.*', 1), ('rest', 1)], r"'Conv2d' and 'name:short.\*' both name short.weight"),
        ([('Linear', 1)], r"conv1.weight has none; add \('rest', ...\), or change the patterns"),
        ([('name:*', 0.5), ('rest', 1)], "nothing is left for 'rest' or 'total', or change the patterns"),
        ([('name:*', 0.5), ('total', 0.5)], "nothing is left for 'rest' or 'total'"),
        (
            [('Linear', 1), ('total', 0.05)],  # 83 - 160
            'the total, 0.05, keeps 83 weights, which leaves -77 for the 1496 that no pattern names, and it must leave',
        ),
        ([('Conv2d', 0.5), ('total', 0.9)], 'the total, 0.9, keeps 1491 weights, which leaves 743 for the 160 that'),
    ],
)
def test_densities_that_do_not_fit_the_network(density, text, net):
    with pytest.raises(ValueError, match=f'Mag: density: {text}') as caught:
        build('Mag', density, prunable=BOTH).prune(net)
    assert '\n' not in str(caught.value)
