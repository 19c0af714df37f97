"""Of every m inputs n stay: masks by hand, and what every pruner must do."""

import functools
from fractions import Fraction

import pytest
import torch
from torch import nn

from pab.pruners import apply_masks_, linear
from pab.pruners.n_of_m import count_in_blocks, living_in_blocks, lowest_in_blocks, parse_n_of_m
from tests.test_pruners.pruning import BOTH, build, same

HALF = Fraction(1, 2)


def kept_of(scores, m, density, alive=None):
    scores = torch.tensor(scores, dtype=torch.float64)
    alive = torch.ones_like(scores, dtype=torch.bool) if alive is None else torch.tensor(alive, dtype=torch.bool)
    kept = alive & ~lowest_in_blocks(scores, alive, m, density)[0]
    assert int(kept.sum()) == living_in_blocks(alive, m, density)
    return kept.int().tolist()


@pytest.mark.parametrize(
    ('scores', 'm', 'density', 'kept'),
    [
        ([[1, 4, 2, 3, 8, 7, 6, 5]], 4, HALF, [[0, 1, 0, 1, 1, 1, 0, 0]]),
        ([[1, 4, 2, 3, 8, 7, 6, 5]], 8, HALF, [[0, 0, 0, 0, 1, 1, 1, 1]]),
        ([[5, 5, 5, 5], [1, 2, 2, 2]], 4, HALF, [[1, 1, 0, 0], [0, 1, 1, 0]]),  # ties: the lower index stays
        ([[0.0, -0.0, 0.0, -0.0]], 4, HALF, [[1, 1, 0, 0]]),
        ([[-1, -2, -3, -4]], 4, Fraction(1, 4), [[1, 0, 0, 0]]),
        ([[1, 2, 3, 4, 1, 2, 3]], 4, HALF, [[0, 0, 1, 1, 0, 1, 1]]),  # 3 left over: 3 - floor(1.5) stay
        ([[1, 2, 3, 4, 9]], 4, HALF, [[0, 0, 1, 1, 1]]),  # 1 left over
        ([[1, 2, 3]], 4, HALF, [[0, 1, 1]]),  # no full block
        ([[1, 2, 3, 4]], 4, Fraction(1), [[1, 1, 1, 1]]),
        ([[1, 2, 3, 4]], 4, Fraction(7, 10), [[0, 1, 1, 1]]),  # a round on the way: 4 - floor(1.2)
    ],
)
def test_by_hand(scores, m, density, kept):
    assert kept_of(scores, m, density) == kept
    assert count_in_blocks((len(scores), len(scores[0])), m, density) == sum(map(sum, kept))


def test_the_dead_do_not_come_back():
    assert kept_of([[9, 1, 2, 3]], 4, HALF, [[0, 1, 1, 1]]) == [[0, 0, 1, 1]]
    assert kept_of([[9, 9, 9, 1]], 4, HALF, [[0, 0, 0, 1]]) == [[0, 0, 0, 1]]


def test_a_convolution_competes_at_one_position():
    """Written as loops over filters, positions and blocks."""
    scores = torch.randint(0, 4, (3, 10, 2, 3)).double()
    alive = torch.rand(3, 10, 2, 3) < 0.8
    want = torch.zeros_like(alive)
    for o, y, x in torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(3)).tolist():
        for start, end, n in ((0, 4, 2), (4, 8, 2), (8, 10, 1)):
            living = [i for i in range(start, end) if alive[o, i, y, x]]
            for i in sorted(living, key=lambda i: -scores[o, i, y, x])[:n]:
                want[o, i, y, x] = True
    assert torch.equal(alive & ~lowest_in_blocks(scores, alive, 4, HALF)[0], want)
    assert living_in_blocks(alive, 4, HALF) == int(want.sum())


def per_block(mask, m):
    """How many stay in each full block, and in what is left over, as sets."""
    full = mask.shape[1] // m * m
    blocks = mask[:, :full].unflatten(1, (-1, m)).sum(2) if full else torch.zeros(0)
    return set(blocks.flatten().tolist()), set(mask[:, full:].sum(1).flatten().tolist())


@pytest.mark.parametrize('scope, density', [('4:8', 0.5), ('1:4', 0.25), ('3:4', 0.75), ('1:1', 1), ('1:3', 1 / 3)])
def test_other_patterns_and_grouped_convolutions(scope, density):
    n, m = parse_n_of_m(scope)
    net = nn.Sequential(
        nn.Conv2d(24, 48, 3, groups=2), nn.Conv2d(48, 48, 3, groups=48), nn.Flatten(), nn.LazyLinear(5, bias=False)
    )
    net(torch.zeros(1, 24, 5, 5))
    masks = build('SynFlow', density, scope=scope, rounds=3, prunable=BOTH).prune(net, input_shape=(24, 5, 5))
    assert per_block(masks['0.weight'], m)[0] == {n}  # 12 inputs a filter
    assert masks['1.weight'].all()  # depthwise: one input, 1 - floor(1 - n/m)
    assert per_block(masks['3.weight'], m)[0] == {n}


def test_rounds_and_shots_on_the_way(net):
    seen, scored = [], []
    pruner = build('Mag', 0.5, scope='2:4', rounds=4, schedule='linear', prunable=['Linear'])
    score = pruner.score
    pruner.score = lambda **given: scored.append(None) or score(**given)
    final = pruner.prune(net, on_round=lambda done, rounds, density: seen.append(density))
    # densities 7/8, 3/4, 5/8, 1/2: 4 - floor(4/8), 4 - floor(1), 4 - floor(12/8), 4 - floor(2)
    assert seen == [1, 0.75, 0.75, 0.5]
    assert len(scored) == 2  # what removes nothing is not scored
    shot = pruner.prune(net, shot=functools.partial(linear, done=1, rounds=2))
    assert per_block(shot['fc.weight'], 4)[0] == {3}
    apply_masks_(net, shot)
    assert same(pruner.prune(net), final)  # by magnitude, in two shots or in one


def test_earlier_masks_are_respected(net):
    pruner = build('Mag', 0.5, scope='2:4', prunable=['Linear'])
    earlier = torch.ones(10, 16, dtype=torch.bool)
    earlier[0, 4:6] = False
    apply_masks_(net, {'fc.weight': earlier})
    masks = pruner.prune(net)
    assert masks['fc.weight'][0, 4:8].tolist() == [False, False, True, True]
    assert per_block(masks['fc.weight'], 4)[0] == {2}
    earlier[3, 9:12] = False
    apply_masks_(net, {'fc.weight': earlier})
    with pytest.raises(
        ValueError,
        match=r'Mag: density 0.5 in every 4 inputs keeps 80 weights of fc.weight, but earlier masks left 79 of them; '
        r'a pruned weight never comes back',
    ):
        pruner.prune(net)


@pytest.mark.parametrize(
    ('settings', 'text'),
    [
        (dict(scope='2:4', density=0.3), r"Mag: density must be 2 / 4 with scope '2:4', got 0.3"),
        (dict(scope='2:4', density=0.75), r"Mag: density must be 2 / 4 with scope '2:4', got 0.75"),
        (dict(scope='5:4'), "Mag: unknown scope '5:4'; known: global, local, n:m with 1 <= n <= m, such as 2:4"),
        (dict(scope='0:4'), "unknown scope '0:4'"),
        (dict(scope='2:4:8'), "unknown scope '2:4:8'"),
        (dict(scope=24), 'unknown scope 24'),
        (dict(scope='2:4', min_per_tensor=3), "scope '2:4' .* so min_per_tensor must be left at 0, got 3"),
        (
            dict(scope='2:4', density=[('Linear', 1), ('rest', 0.5)]),
            r"scope '2:4' .* so density must be 2 / 4, got \[\['Linear', 1.0\], \['rest', 0.5\]\]; leave tensors out",
        ),
        (dict(scope='2:4', density=[('total', 0.5)]), r"so density must be 2 / 4, got \[\['total', 0.5\]\]"),
    ],
)
def test_refusals(settings, text):
    with pytest.raises(ValueError, match=text):
        build('Mag', **dict(dict(density=0.5), **settings))


def test_refusals_of_a_network(net):
    pruner = build('Mag', 0.5, scope='2:4')
    with pytest.raises(ValueError, match=r'Mag: shot must return a density between .* and 1, got 0.25 for 0.5'):
        pruner.prune(net, shot=lambda density: density / 2)
    turned = build('Mag', 0.5, scope='2:4', prunable=['ConvTranspose2d'])
    with pytest.raises(ValueError, match=r"'0.weight' of a transposed convolution is not; add '!name:0.weight'"):
        turned.prune(nn.Sequential(nn.ConvTranspose2d(8, 8, 3)))


def test_noise_does_not_tell_equal_scores_apart():
    scores = torch.tensor([[2.0, 1, 1 + 1e-15, 1, 5, 1 - 1e-15, 3, 4]], dtype=torch.float64)
    gone, tied = lowest_in_blocks(scores, torch.ones(1, 8, dtype=torch.bool), 4, HALF)
    assert gone.int().tolist() == [[0, 0, 1, 1, 0, 1, 1, 0]]
    assert tied.int().tolist() == [[0, 1, 0, 0, 0, 0, 0, 0]]
