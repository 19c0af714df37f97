"""Moves: which weights leave and which grow, how many, with what magnitude, and what is refused."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from pab.contracts import wants_pruned_gradients
from pab.models import initialize_
from pab.optim import Moves, TopFlips, moves as moves_module
from pab.pruners import Mag, Rand, apply_masks_, check_masks, get_masks, register_masks_
from tests.registered import small_network

DRAWN = torch.tensor([[0.5, -0.5, 0.25, 0.25, -1.0, 0.5]])
MASK = torch.tensor([[True, True, True, False, False, False]])


def six(**settings):
    """A layer of six weights, three of them kept, and its optimizer."""
    net = nn.Linear(6, 1, bias=False)
    net.weight.data.copy_(DRAWN)
    apply_masks_(net, {'weight': MASK})
    moves = Moves(net.parameters(), **settings)
    moves.attach(net, {'weight': DRAWN})
    return net, moves


def trained(density=0.3, steps=20, layout=torch.channels_last, **settings):
    """A network of convolutions after steps on random gradients, its optimizer and its initial weights."""
    net = small_network('CIFARResNet').to(memory_format=layout)
    drawn = {name: param.detach().clone() for name, param in net.named_parameters()}
    apply_masks_(net, Rand(density, scope='local').prune(net))
    moves = Moves([layer.weight for layer in net.modules() if isinstance(layer, nn.Conv2d)], **settings)
    moves.attach(net, drawn)
    step(moves, range(steps))
    return net, moves, drawn


def step(optimizer, numbers):
    for number in numbers:
        stream = torch.Generator().manual_seed(number)
        for param in optimizer.param_groups[0]['params']:
            grad = torch.randn(param.shape, generator=stream)
            param.grad = grad if wants_pruned_gradients(param) else grad * (param != 0)
        optimizer.step()


def due_after(steps, each):
    """The whole part of what is due in each step, which the device adds up in float64."""
    total, carried = 0, 0.0
    for _ in range(steps):
        carried += each
        total, carried = total + int(carried), carried % 1
    return total


def moves_of(optimizer):
    return [int(state['tensor_moves']) for state in optimizer.state.values()]


def test_a_step_by_hand():
    net, moves = six(flip_share=1 / 3, move_share=1 / 3, adaptivity_rate=0.5)
    # m = .4 -.3 -.2 .4 -.15 .1; evidence .4 .3 -.2: the first leaves, the second flips
    # of the pruned the fifth has the largest abs(m w0), .1 .15 .05
    net.weight.grad = torch.tensor([[0.8, -0.6, -0.4, 0.8, -0.3, 0.2]])
    moves.step()
    assert net.weight.tolist() == [[0.0, 0.5, 0.25, 0.0, 1.0, 0.0]]
    assert net.weight_mask.tolist() == [[False, True, True, False, True, False]]
    state = moves.state[net.weight]
    torch.testing.assert_close(state['moving_average'], torch.tensor([[0.0, 0.0, -0.2, 0.4, 0.0, 0.1]]))
    assert [int(moves.last_flips), int(state['tensor_flips']), int(state['tensor_moves'])] == [1, 1, 1]


@pytest.mark.parametrize('per_channel', [True, False])
def test_evidence_counts_beside_that_of_its_channel(per_channel):
    net = nn.Linear(3, 2, bias=False)
    drawn = torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])
    net.weight.data.copy_(drawn)
    apply_masks_(net, {'weight': torch.tensor([[True, True, False], [True, True, False]])})
    moves = Moves(net.parameters(), move_share=0.25, per_channel=per_channel)  # one of four weights
    moves.attach(net, {'weight': drawn})
    # the first channel has ten times the gradients; evidence over its mean: 1.2 1.05, and 1.8 0.6; to grow .75, .6
    net.weight.grad = torch.tensor([[8.0, 7.0, 5.0], [0.9, 0.3, 0.3]])
    moves.step()
    leaves = (1, 0) if per_channel else (0, 0)
    expected = drawn * torch.tensor([[1.0, 1.0, -1.0], [1.0, 1.0, 0.0]])
    expected[leaves] = 0
    assert torch.equal(net.weight, expected)


def test_a_channel_without_gradients_moves_nothing():
    net = nn.Linear(2, 2, bias=False)
    drawn = torch.full((2, 2), 0.5)
    net.weight.data.copy_(drawn)
    apply_masks_(net, {'weight': torch.tensor([[True, False], [True, False]])})
    moves = Moves(net.parameters(), move_share=1.0)
    moves.attach(net, {'weight': drawn})
    net.weight.grad = torch.tensor([[0.0, 0.0], [1e-30, 1e-30]])
    moves.step()
    assert net.weight.tolist() == [[0.5, 0.0], [0.0, -0.5]]


@pytest.mark.parametrize('broken', [float('nan'), float('inf')])
def test_a_gradient_that_is_not_finite_holds_back_no_other_place(broken):
    net = nn.Linear(4, 1, bias=False)
    drawn = torch.full((1, 4), 0.5)
    net.weight.data.copy_(drawn)
    apply_masks_(net, {'weight': torch.tensor([[True, True, False, False]])})
    moves = Moves(net.parameters(), move_share=1.0)
    moves.attach(net, {'weight': drawn})
    net.weight.grad = torch.tensor([[0.2, -0.2, broken, 0.3]])
    moves.step()
    assert net.weight_mask.tolist() == [[False, True, False, True]]


def test_no_more_move_than_have_evidence_against_them_and_a_gradient_for_them():
    net, moves = six(flip_share=0.0, move_share=1.0)
    net.weight.grad = torch.tensor([[1.0, 1.0, 0.5, 1.0, 1.0, 1.0]])  # it speaks for the second
    moves.step()
    assert net.weight.tolist() == [[0.0, -0.5, 0.0, 0.0, -1.0, -0.5]]
    assert not net.weight.signbit()[0, 0]  # its 0 is not a negative one
    net, moves = six(flip_share=0.0, move_share=1.0)
    net.weight.grad = torch.tensor([[1.0, 1.0, 0.5, 0.0, 1.0, 0.0]])
    moves.step()
    assert net.weight.tolist() == [[0.0, -0.5, 0.25, 0.0, -1.0, 0.0]]
    net.weight_mask.fill_(True)  # and none where none is pruned
    moves.step()
    assert moves_of(moves) == [1]


@pytest.mark.parametrize(
    ('share', 'layout'),
    [(0.02, torch.channels_last), pytest.param(0.0004, torch.contiguous_format, marks=pytest.mark.slow)],
)
def test_every_count_is_exact_and_every_magnitude_the_one_drawn(share, layout):
    net, moves, drawn = trained(steps=0, move_share=share, flip_share=0.02, adaptivity_rate=0.5, layout=layout)
    kept = {name: int(mask.sum()) for name, mask in get_masks(net).items()}
    before = {name: mask.clone() for name, mask in get_masks(net).items()}
    for number in range(200):
        step(moves, [number])
        for name, mask in get_masks(net).items():
            assert int(mask.sum()) == kept[name]
            assert torch.equal(net.get_parameter(name).abs(), drawn[name].abs() * mask)
            assert net.get_parameter(name).stride() == drawn[name].stride()
    check_masks(net)
    due = [due_after(200, n * share) for n in kept.values()]
    assert moves_of(moves) == due
    assert (0 in due) == (share < 0.01)  # of the smallest tensor none has moved
    assert all(
        torch.equal(mask, before[name]) == (n == 0) for n, (name, mask) in zip(due, get_masks(net).items(), strict=True)
    )


def joined(tensors):
    return np.concatenate([tensor.detach().numpy().reshape(-1) for tensor in tensors])


@pytest.mark.parametrize('per_channel', [True, False])
@pytest.mark.parametrize('scope', ['local', 'global'])
def test_an_independent_computation(scope, per_channel):
    settings = dict(move_share=0.1, flip_share=0.1, adaptivity_rate=0.25, flips_per_weight=True, scope=scope)
    settings['per_channel'] = per_channel
    net, moves, drawn = trained(steps=0, **settings)
    masks = get_masks(net) if scope == 'global' else {'layer1.0.conv1.weight': net.layer1[0].conv1.weight_mask}
    params = [net.get_parameter(name) for name in masks]
    owner = np.concatenate([np.full(param.numel(), i) for i, param in enumerate(params)])
    w, kept, size = joined(params), joined(masks.values()), joined(drawn[name].abs() for name in masks)
    m, flips, flips_due, moves_due = np.zeros_like(w), np.zeros(w.shape, int), 0.0, 0.0
    moved = np.zeros(len(params), int)
    for number in range(30):
        step(moves, [number])
        m = m * np.float32(0.75) + joined(param.grad for param in params) * np.float32(0.25)
        flips_due, moves_due = flips_due + 0.1 * kept.sum(), moves_due + 0.1 * kept.sum()
        ranked = m.copy()
        if per_channel:
            start = 0
            for param in params:
                for channel in range(len(param)):
                    end = start + param[channel].numel()
                    ranked[start:end] /= np.abs(m[start:end]).mean()
                    start = end
        evidence = ranked * np.sign(w)
        if scope == 'global':  # the last of each tensor stays
            for i in range(len(params)):
                evidence[np.where(kept & (owner == i), evidence, np.inf).argmin()] = 0
        against = sorted((i for i in np.ndindex(w.shape) if evidence[i] > 0), key=lambda i: -evidence[i])
        strongest = sorted((i for i in np.ndindex(w.shape) if not kept[i]), key=lambda i: -abs(ranked[i] * size[i]))
        count = min(int(moves_due), len(against))
        for i in against[count : count + int(flips_due)]:
            w[i], m[i], flips[i] = -w[i], 0, flips[i] + 1
        for leaves, grows in zip(against[:count], strongest, strict=False):
            w[leaves], kept[leaves], m[leaves] = 0, False, 0
            moved[owner[leaves]] += 1
            w[grows], kept[grows], m[grows] = -np.sign(m[grows]) * size[grows], True, 0
        flips_due, moves_due = flips_due % 1, moves_due % 1
        assert np.array_equal(joined(params), w)
        assert np.array_equal(joined(masks.values()), kept)
        assert np.allclose(joined(moves.state[param]['moving_average'] for param in params), m)
    assert np.array_equal(joined(moves.state[param]['weight_flips'] for param in params), flips)
    assert [int(moves.state[param]['tensor_moves']) for param in params] == moved.tolist()
    assert [int(moves.state[param]['tensor_flips']) for param in params] == [
        flips[owner == i].sum() for i in range(len(params))
    ]


def test_tensors_that_compete_lose_and_gain_by_hand():
    net = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 2, bias=False))
    drawn = {'0.weight': torch.tensor([[0.5, -0.5, 0.25]]), '1.weight': torch.tensor([[1.0], [-1.0]])}
    net.load_state_dict(drawn)
    apply_masks_(net, {'0.weight': torch.tensor([[True, True, False]]), '1.weight': torch.tensor([[True], [False]])})
    moves = Moves(net.parameters(), move_share=1.0, scope='global')
    moves.attach(net, drawn)
    # the first tensor's second weight and the second one's first are the last that leave of theirs, so they stay
    net[0].weight.grad, net[1].weight.grad = torch.tensor([[3.0, -1.0, 4.0]]), torch.tensor([[9.0], [3.0]])
    moves.step()
    assert [param.tolist() for param in net.parameters()] == [[[0.0, -0.5, 0.0]], [[1.0], [-1.0]]]
    assert moves_of(moves) == [1, 0]


@pytest.mark.parametrize('skewed', [False, True])
def test_the_largest_of_a_large_tensor(skewed, monkeypatch):
    monkeypatch.setattr('pab.optim.moves.RANKED', 100)
    values = torch.randn(10_007)
    if skewed:  # the sample has none of them
        values[1::101] += 100 * (torch.arange(1, 10_007, 101) % 101 > 0)
        values[::101] = 50.0
    for count in (1, 30, 3000, 10_007):
        (largest, at), want = moves_module._largest(values, count), values.topk(count).values
        assert torch.equal(largest, want)
        assert torch.equal(values[at], want)


def test_without_moves_it_is_top_flips():
    nets = [small_network('CIFARResNet') for _ in range(2)]
    for net, kind in zip(nets, (TopFlips, Moves), strict=True):
        apply_masks_(net, Mag(0.3).prune(net))
        settings = {'move_share': 0.0} if kind is Moves else {}
        step(kind([net.layer1[0].conv1.weight], flip_share=0.02, adaptivity_rate=0.1, **settings), range(10))
    assert torch.equal(nets[0].layer1[0].conv1.weight, nets[1].layer1[0].conv1.weight)


def test_the_gradient_is_whole_while_weights_move():
    net, moves = six()
    for share, nonzero in ((1e-3, 6), (0.0, 3), (1e-3, 6)):
        moves.param_groups[0]['move_share'] = share
        net.weight.grad = None
        net(torch.ones(2, 6)).sum().backward()
        assert int(net.weight.grad.count_nonzero()) == nonzero
    moves.param_groups[0]['lr'] = 0.0  # a factor on this share too
    assert not wants_pruned_gradients(net.weight)
    moves.param_groups[0]['lr'] = 1.0
    del moves  # nor is it any more when its optimizer is gone
    net.weight.grad = None
    net(torch.ones(2, 6)).sum().backward()
    assert int(net.weight.grad.count_nonzero()) == 3


def test_the_learning_rate_is_a_factor_on_both_shares():
    ends = []
    for settings in (dict(flip_share=0.02, move_share=0.01), dict(flip_share=0.08, move_share=0.04, lr=0.25)):
        net, moves, _ = trained(**settings)
        ends.append((net.layer1[0].conv1.weight.detach(), moves_of(moves)))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


@pytest.mark.parametrize(
    ('clone', 'scope'), [(copy.deepcopy, 'local'), (lambda o: pickle.loads(pickle.dumps(o)), 'global')]
)
def test_a_restored_one_goes_on_bit_for_bit(clone, scope):
    net, moves, drawn = trained(move_share=0.02, scope=scope)
    twin = clone(net)  # with its masks
    other = Moves([layer.weight for layer in twin.modules() if isinstance(layer, nn.Conv2d)], move_share=0.5)
    other.load_state_dict(copy.deepcopy(moves.state_dict()))
    other.attach(twin, drawn)
    for optimizer in (moves, other):
        step(optimizer, range(20, 40))
    for (name, tensor), same in zip(net.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(tensor, same), name
    for state, same in zip(moves.state.values(), other.state.values(), strict=True):
        assert all(torch.equal(value, same[key]) for key, value in state.items())
    assert sum(moves_of(moves)) > 100


def test_masks_that_are_loaded_or_replaced_are_found():
    net, moves, _ = trained()
    state = copy.deepcopy(net.state_dict())
    step(moves, range(20, 60))
    net.load_state_dict(state, assign=False)
    layer = net.layer1[0].conv1
    layer.weight_mask = layer.weight_mask.clone()
    step(moves, range(60, 90))
    check_masks(net)
    assert not torch.equal(layer.weight_mask, state['layer1.0.conv1.weight_mask'])


def test_a_training_that_began_with_flips_alone():
    _, moves, _ = trained(move_share=0.0)
    moves.param_groups[0]['move_share'] = 0.02
    step(moves, range(20, 40))
    assert sum(moves_of(moves)) > 100


def test_what_it_refuses():
    net = initialize_(nn.Linear(6, 2, bias=False))
    drawn = {'weight': net.weight.detach().clone()}
    moves = Moves(net.parameters())
    net.weight.grad = torch.ones(2, 6)
    with pytest.raises(RuntimeError, match=r'Moves: attach\(network, drawn\) comes before a step'):
        moves.step()
    with pytest.raises(ValueError, match=r'Moves: weight has no mask, so none of its weights can move; prune it'):
        moves.attach(net, drawn)
    register_masks_(net, ['Linear'])
    with pytest.raises(ValueError, match=r'Moves: drawn has no weight of shape \(2, 6\)'):
        moves.attach(net, {})
    with pytest.raises(ValueError, match=r'Moves: 1 weights of weight do not have the magnitudes that were drawn'):
        moves.attach(net, {'weight': drawn['weight'] + torch.eye(12)[0].view(2, 6)})
    with pytest.raises(ValueError, match=r'Moves: a weight of shape \(2, 6\) is not in the network'):
        moves.attach(nn.Linear(6, 2), drawn)
    with pytest.raises(ValueError, match=r'Moves: move_share must lie in \[0, 1\], got 1.5'):
        Moves(net.parameters(), move_share=1.5)
    with pytest.raises(ValueError, match=r"Moves: unknown scope '2:4'; known: local, global"):
        Moves(net.parameters(), scope='2:4')
    with pytest.raises(ValueError, match=r"Moves: unknown per_channel 'no'; known: True, False"):
        Moves(net.parameters(), per_channel='no')
    moves.attach(net, drawn)
    moves.step()
    copied = copy.deepcopy(moves)
    copied.param_groups[0]['params'][0].grad = torch.ones(2, 6)
    with pytest.raises(RuntimeError, match='comes before a step'):
        copied.step()


def test_a_state_from_before_there_were_these_settings():
    _, moves = six(scope='global', per_channel=True)
    saved = moves.state_dict()
    for name in ('scope', 'per_channel'):
        del saved['param_groups'][0][name]
    moves.load_state_dict(saved)
    assert (moves.param_groups[0]['scope'], moves.param_groups[0]['per_channel']) == ('local', False)
