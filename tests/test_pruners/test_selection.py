"""Counts, ties, scope and floors, by numbers that can be checked by hand."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from pab.pruners.groups import Group, make_groups
from pab.pruners.schedules import as_density, exponential, kept_count, linear
from pab.pruners.selection import lowest


def keep_highest(scores, alive, count, sizes=(), floor=0):
    kept = alive.clone()
    kept[lowest(scores, alive, int(alive.sum()) - count, sizes, floor)[0]] = False
    assert int(kept.sum()) == count
    return kept


@pytest.mark.parametrize(
    ('total', 'density', 'kept'),
    [
        (10, 0.9, 9),  # in floating point (1 - 0.9) * 10 = 0.99999..., which would keep all 10
        (10, 0.7, 7),
        (10, 0.3, 3),
        (100, 0.29, 29),
        (7, 0.5, 4),  # floor(3.5) = 3 go
        (8, 0.05, 1),
        (1000, 1e-6, 1),  # never none
        (10, 1.0, 10),
        (10, 1, 10),
        (3, Fraction(1, 3), 1),
        (10, Decimal('0.9'), 9),
        (10, np.float32(0.9), 9),
        (10, np.float64(0.9), 9),
    ],
)
def test_kept_count_reads_the_density_as_written(total, density, kept):
    assert kept_count(total, as_density(density, 'test')) == kept


@pytest.mark.parametrize('value', [0, -0.1, 1.0001, float('nan'), float('inf'), 30])
def test_density_out_of_range(value):
    with pytest.raises(ValueError, match=r'SynFlow: density must lie in \(0, 1\], got'):
        as_density(value, 'SynFlow')


@pytest.mark.parametrize('value', ['0.3', True, None, [0.3]])
def test_density_of_another_type(value):
    with pytest.raises(TypeError, match=r'SynFlow: density must lie in \(0, 1\], got'):
        as_density(value, 'SynFlow')


def test_schedules_by_hand():
    quarter = Fraction(1, 4)
    assert [linear(quarter, t, 3) for t in (1, 2, 3)] == [Fraction(3, 4), Fraction(1, 2), quarter]
    assert [linear(Fraction('0.4'), t, 3) for t in (1, 2, 3)] == [Fraction('0.8'), Fraction('0.6'), Fraction('0.4')]
    assert [exponential(quarter, t, 2) for t in (1, 2)] == [Fraction(1, 2), quarter]
    assert exponential(Fraction('0.81'), 1, 2) == Fraction('0.9')


@pytest.mark.parametrize(
    ('scores', 'alive', 'count', 'kept'),
    [
        ([3, 1, 2, 5], [1, 1, 1, 1], 2, [1, 0, 0, 1]),
        ([4, 4, 4, 4], [1, 1, 1, 1], 2, [1, 1, 0, 0]),  # all ties: the lower index survives
        ([4, 4, 4, 4], [0, 1, 1, 1], 2, [0, 1, 1, 0]),
        ([2, 1, 2, 3], [1, 1, 1, 1], 2, [1, 0, 0, 1]),
        ([9, 1, 2, 3], [0, 1, 1, 1], 2, [0, 0, 1, 1]),  # the dead do not come back, however high
        ([0, 0, 0, 0], [1, 0, 1, 0], 1, [1, 0, 0, 0]),
        ([-1, -2, -3, -4], [1, 1, 1, 1], 3, [1, 1, 1, 0]),
        ([0.0, -0.0, 0.0, 1], [1, 1, 1, 1], 2, [1, 0, 0, 1]),
        ([3, 1, 2, 5], [1, 1, 1, 1], 4, [1, 1, 1, 1]),
        ([3, 1, 2, 5], [1, 0, 1, 1], 0, [0, 0, 0, 0]),
    ],
)
def test_keep_highest_by_hand(scores, alive, count, kept):
    alive = torch.tensor(alive, dtype=torch.bool)
    got = keep_highest(torch.tensor(scores, dtype=torch.float64), alive, count)
    assert got.int().tolist() == kept


@pytest.mark.parametrize('distinct', [3, 1000, 10**9])
@pytest.mark.parametrize('share', [0.001, 0.02, 0.5, 0.97])
def test_keep_highest_equals_a_stable_sort(distinct, share):
    stream = torch.Generator().manual_seed(distinct)
    scores = torch.randint(-distinct, distinct, (300_000,), generator=stream).double()
    alive = torch.rand(300_000, generator=stream) < 0.6
    count = int(int(alive.sum()) * (1 - share))
    order = scores.masked_fill(~alive, -torch.inf).argsort(descending=True, stable=True)
    want = torch.zeros_like(alive)
    want[order[:count]] = True
    assert torch.equal(keep_highest(scores, alive, count), want)


@pytest.mark.parametrize('distinct', [3, 10**9])
def test_a_floor_equals_a_stable_sort_of_each_tensor(distinct):
    stream = torch.Generator().manual_seed(distinct)
    sizes = [100_000, 5_000, 20, 7]
    scores = torch.randint(-distinct, distinct, (sum(sizes),), generator=stream).double()
    scores[100_000:] -= 2 * distinct  # without a floor these would go
    alive = torch.rand(sum(sizes), generator=stream) < 0.6
    safe = torch.zeros_like(alive)
    for score, living, mine in zip(scores.split(sizes), alive.split(sizes), safe.split(sizes), strict=True):
        mine[score.masked_fill(~living, -torch.inf).argsort(descending=True, stable=True)[:10]] = True
    safe &= alive
    others = scores.masked_fill(~alive | safe, -torch.inf).argsort(descending=True, stable=True)
    want = safe.clone()
    want[others[: 20_000 - int(safe.sum())]] = True
    assert torch.equal(keep_highest(scores, alive, 20_000, sizes, 10), want)


def test_floor_by_hand():
    scores = torch.tensor([9.0, 8, 7, 6, 1, 2, 3])
    alive = torch.ones(7, dtype=torch.bool)
    assert keep_highest(scores, alive, 4, [4, 3], 0).int().tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert keep_highest(scores, alive, 4, [4, 3], 1).int().tolist() == [1, 1, 1, 0, 0, 0, 1]
    assert keep_highest(scores, alive, 4, [4, 3], 2).int().tolist() == [1, 1, 0, 0, 0, 1, 1]
    assert keep_highest(scores, alive, 5, [6, 1], 2).int().tolist() == [1, 1, 1, 1, 0, 0, 1]


def test_groups():
    half, tenth, shapes = Fraction(1, 2), Fraction(1, 10), dict(a=(5, 2), b=(20,), fc=(3, 10))
    whole = Group(('a', 'b', 'fc'), (10, 20, 30), half, 30)
    named = dict(fc=tenth)
    alone, classifier = [Group(('a',), (10,), half, 5), Group(('b',), (20,), half, 10)], Group(('fc',), (30,), tenth, 3)
    assert make_groups(shapes, 'global', half) == [whole]
    assert make_groups(shapes, 'global', half, named=named) == [Group(('a', 'b'), (10, 20), half, 15), classifier]
    assert make_groups(shapes, 'local', half, named=named) == [*alone, classifier]
    assert make_groups(dict(fc=(30,)), 'global', None, named=named) == [classifier]


def test_counts_shared_by_floors():
    def counts(floor):
        return [
            group.count for group in make_groups(dict(a=(10,), b=(100,), c=(200,)), 'local', Fraction(1, 10), floor)
        ]

    assert counts(0) == [1, 10, 20]
    assert counts(4) == [4, 10, 17]  # the one with the most to spare pays
    assert counts(10) == [10, 10, 11]
    with pytest.raises(ValueError, match='min_per_tensor: 12 weights in each of 3 tensors need 34 kept weights'):
        counts(12)


def test_noise_does_not_tell_equal_scores_apart():
    """Two values, each many times, with noise of rounding: position decides as it does without the noise."""
    stream = torch.Generator().manual_seed(0)
    exact = torch.tensor([3.0, -7.0, 11.0]).double()[torch.randint(3, (3000,), generator=stream)]
    for seed in range(5):
        noise = torch.randn(3000, generator=torch.Generator().manual_seed(seed)).double() * 1e-15
        for sizes, floor in (((3000,), 0), ((1000, 2000), 400)):
            for drop in (1, 500, 1000, 1700):
                alive = torch.ones(3000, dtype=torch.bool)
                without = keep_highest(exact, alive, 3000 - drop, sizes, floor)
                assert torch.equal(keep_highest(exact * (1 + noise), alive, 3000 - drop, sizes, floor), without)


def test_what_stays_for_its_position():
    scores, alive = torch.tensor([5.0, 1, 1, 3, 1, 0, 1]).double(), torch.ones(7, dtype=torch.bool)
    alive[1] = False
    gone, tied = lowest(scores, alive, 2, (7,))  # the 0 and the last of three ones
    assert sorted(gone.tolist()) == [5, 6]
    assert sorted(tied.tolist()) == [2, 4]
    assert not len(lowest(scores, alive, 4, (7,))[1])  # all ones go
    # the second tensor keeps one of its ones for the floor alone, the first none for its position
    gone, tied = lowest(torch.tensor([2.0, 3, 1, 1]), torch.ones(4, dtype=torch.bool), 1, (2, 2), floor=1)
    assert (gone.tolist(), tied.tolist()) == ([3], [2])
