"""Erdos-Renyi-Kernel: counts by hand, exact totals, and counts that never rise when the density falls."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings, strategies as st

from pab.pruners.allocation import ALLOCATIONS, erk
from pab.pruners.groups import make_groups
from pab.pruners.schedules import kept_count
from tests.test_pruners.pruning import BOTH, build, kept, total

NET = [(8, 3, 3, 3), (16, 8, 3, 3), (16, 8, 1, 1), (10, 16)]  # sizes 216, 1152, 128, 160; sums 17, 30, 26, 26


@pytest.mark.parametrize(
    ('density', 'counts'),
    [
        # 166 stay, 17 + 30 + 26 + 26 = 99 dimensions: f = 166 / 99 = 1.677; floors 28 50 43 43 are 164. The next to
        # come are at f = 29/17 = 1.706, 51/30 = 1.7, 44/26 = 1.692 (two of them), so these two
        ('0.1', [28, 50, 44, 44]),
        # 828 stay: f = 828 / 99 = 8.36 would give the third 217 > 128 and the last 217 > 160, so both are dense, and
        # f = (828 - 288) / 47 = 11.49; floors 195 and 344 are one too few; 345/30 = 11.5 comes before 196/17 = 11.53
        ('0.5', [195, 345, 128, 160]),
        # 1491 stay: the first is dense as well; 1491 - 504 = 987
        ('0.9', [216, 987, 128, 160]),
        ('1', [216, 1152, 128, 160]),
    ],
)
def test_erk_by_hand(density, counts):
    assert erk(NET, Fraction(density)) == counts


def test_of_tensors_that_come_at_once_the_first_gains():
    assert erk([(4, 4)] * 3, Fraction(1, 3)) == [6, 5, 5]
    assert erk([(4, 4)] * 3, Fraction(17, 48)) == [6, 6, 5]


def test_erk_with_a_floor_by_hand():
    shapes = [(2, 2), (2, 20), (20, 2)]  # sizes 4 40 40, sums 4 22 22; 21 of 84 stay
    assert erk(shapes, Fraction(1, 4)) == [1, 10, 10]
    assert erk(shapes, Fraction(1, 4), floor=4) == [4, 9, 8]  # 17 are left for two tensors
    assert erk(shapes, Fraction(1, 20), floor=10) == erk(shapes, Fraction(1, 20))  # no room: the caller finds out


SHAPES = st.lists(st.lists(st.integers(1, 12), min_size=2, max_size=4), min_size=1, max_size=6)


@pytest.mark.parametrize('name', sorted(ALLOCATIONS))
@given(shapes=SHAPES, floor=st.integers(0, 20), steps=st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_every_allocation_is_bounded_and_monotone(name, shapes, floor, steps):
    sizes = [torch.Size(shape).numel() for shape in shapes]
    before = sizes
    for step in range(steps, 0, -1):
        density = Fraction(step, steps)
        if floor * len(shapes) > kept_count(sum(sizes), density):
            floor, before = 0, sizes
        counts = ALLOCATIONS[name](shapes, density, floor)
        assert all(0 <= count <= more for count, more in zip(counts, before, strict=True))
        if name == 'erk':
            assert sum(counts) == kept_count(sum(sizes), density)
            assert all(count >= min(floor, size) for count, size in zip(counts, sizes, strict=True))
        before = counts


@given(shapes=SHAPES, share=st.fractions(Fraction(1, 1000), 1))
@settings(deadline=None, max_examples=60)
def test_erk_gives_one_weight_after_the_other(shapes, share):
    """The next weight goes to the tensor that the smallest factor gives it to, one at a time."""
    sizes, counts = [torch.Size(shape).numel() for shape in shapes], [0] * len(shapes)
    for _ in range(kept_count(sum(sizes), share)):
        open_ones = [i for i in range(len(shapes)) if counts[i] < sizes[i]]
        counts[min(open_ones, key=lambda i: Fraction(counts[i] + 1, sum(shapes[i])))] += 1
    assert erk(shapes, share) == counts


def test_shots_to_falling_densities(net):
    pruner, earlier = build('Mag', 0.05, rounds=4, scope='local', allocation='erk', prunable=BOTH), None
    for density in (0.9, 0.5, 0.3, 0.11, 0.05):
        masks = pruner.prune(net, shot=lambda _, reached=density: reached)
        assert kept(masks) == kept_count(total(masks), Fraction(str(density)))
        assert earlier is None or not any((masks[key] & ~earlier[key]).any() for key in masks)
        for name, mask in masks.items():
            net.get_parameter(name).data.mul_(mask)
        earlier = masks


def test_rounds_lead_every_tensor_to_its_own_density():
    shapes, sizes = dict(enumerate(NET)), [216, 1152, 128, 160]
    groups = make_groups(shapes, 'local', Fraction(1, 10), allocation='erk')
    assert [group.density for group in groups] == [
        Fraction(count, size) for count, size in zip([28, 50, 44, 44], sizes, strict=True)
    ]
    none_left = make_groups({'a': (2, 2), 'b': (20, 20)}, 'local', Fraction(1, 200), allocation='erk')
    assert [(group.count, group.density) for group in none_left] == [(0, Fraction(1, 4)), (3, Fraction(3, 400))]


def test_with_floors(net):
    options = dict(scope='local', allocation='erk', prunable=BOTH)
    floored = build('Mag', 0.1, min_per_tensor=40, **options).prune(net)
    assert [int(mask.sum()) for mask in floored.values()] == erk(NET, Fraction(1, 10), 40)
    assert kept(floored) == 166
    assert min(int(mask.sum()) for mask in floored.values()) == 40
    with pytest.raises(ValueError, match=r'min_per_tensor: 42 weights in each of 4 tensors need 168 kept weights'):
        build('Mag', 0.1, min_per_tensor=42, **options).prune(net)


@pytest.mark.parametrize('scope', ['global', '2:4'])
def test_an_allocation_needs_scope_local(scope):
    with pytest.raises(ValueError, match=rf"Mag: allocation 'erk' needs scope='local', got scope='{scope}'"):
        build('Mag', 0.5, scope=scope, allocation='erk')


def test_an_unknown_allocation():
    with pytest.raises(ValueError, match="Mag: unknown allocation 'er'; known: uniform, erk"):
        build('Mag', 0.5, scope='local', allocation='er')
