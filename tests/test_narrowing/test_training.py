"""Training without dead channels leads to the same networks as with them."""

import copy

import pytest
import torch
from torch import nn

from pab.contracts import exact_gradients
from pab.models import CIFARResNet, ConvNet, WideResNet
from pab.narrowing import TrainedPart, find_cuts
from pab.optim import Bop
from pab.pruners import apply_masks_, check_masks, get_masks
from pab.psg import convert_psg_
from tests.exported import used
from tests.test_narrowing.networks import kill, widths

OPTIMIZERS = {
    'SGD': lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    'Adam': lambda p: torch.optim.Adam(p, lr=0.01),
    'Bop': lambda p: Bop(p, adaptivity_rate=0.1, threshold=1e-4),
}
NETWORKS = {
    'basic blocks': lambda: CIFARResNet(8, width=8),
    'pre-activation': lambda: WideResNet(10, 1),
    'no biases': lambda: ConvNet(2, image_size=8, bias=False),
    'PSG': lambda: convert_psg_(CIFARResNet(8, width=8)),
}


def steps(network, optimizer, count, seed=0):
    generator, losses = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        optimizer.zero_grad()
        logits = network.train()(torch.randn(6, 3, 8, 8, generator=generator).double())
        loss = nn.functional.cross_entropy(logits, torch.randint(10, (6,), generator=generator))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize(
    'network, kind',
    [
        ('basic blocks', 'SGD'),
        ('PSG', 'Bop'),
        pytest.param('pre-activation', 'Adam', marks=pytest.mark.slow),
        pytest.param('no biases', 'Bop', marks=pytest.mark.slow),
    ],
)
def test_steps_are_the_same(network, kind):
    torch.manual_seed(0)
    whole = kill(NETWORKS[network](), 0.5).double()
    small = copy.deepcopy(whole).to(memory_format=torch.channels_last)
    ways = [(net, OPTIMIZERS[kind](net.parameters())) for net in (whole, small)]
    part = TrainedPart(small, find_cuts(small, (3, 8, 8), get_masks(small)))
    for epoch in range(2):
        expected = steps(*ways[0], 3, epoch)
        before = widths(small)
        part.enter([ways[1][1]])
        part.enter([ways[1][1]])
        bound = 0.85 if network == 'PSG' else 0.8  # PSG sees channels that live and are not read
        assert sum(a * b for a, b in widths(small).values()) < bound * sum(a * b for a, b in before.values())
        got = steps(*ways[1], 3, epoch)
        part.leave()
        part.leave()
        assert widths(small) == before
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    check_masks(small)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(small.eval()(images), whole.eval()(images), rtol=1e-9, atol=1e-9)
    for (name, a), b in zip(whole.named_parameters(), small.parameters(), strict=True):
        assert a.shape == b.shape
        assert a.grad.shape == b.grad.shape, name
        assert {k: v.shape for k, v in ways[0][1].state[a].items()} == {
            k: v.shape for k, v in ways[1][1].state[b].items()
        }
    assert small.conv1.weight.is_contiguous(memory_format=torch.channels_last) if network != 'no biases' else True


@pytest.mark.parametrize('steps_before', [0, 1])
def test_states_of_rows_and_columns_are_cut_too(steps_before):
    network = kill(CIFARResNet(8, width=8), 0.5)
    optimizer = torch.optim.Adafactor(network.parameters(), lr=0.01)

    def step():
        network(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()

    def state():
        return {
            (n, key): t.clone() for n, p in enumerate(network.parameters()) for key, t in optimizer.state[p].items()
        }

    for _ in range(steps_before):
        step()
    before = state()
    part = TrainedPart(network, find_cuts(network, (3, 8, 8), get_masks(network)))
    part.enter([optimizer])
    part.leave()
    assert all(torch.equal(tensor, before[key]) for key, tensor in state().items())
    for _ in range(2):
        part.enter([optimizer])
        step()
        part.leave()
    conv = network.layer1[0].conv1.weight
    assert optimizer.state[conv]['row_var'].shape == (8, 8, 3, 1)
    assert optimizer.state[conv]['col_var'].shape == (8, 8, 1, 3)
    step()


@pytest.mark.slow
def test_a_shift_that_can_learn_keeps_its_channel():
    """The filter is dead, but its BatchNorm's shift reaches a kept weight; in evaluation the same channel goes."""
    network = used(CIFARResNet(8, width=4))
    with torch.no_grad():
        network.layer1[0].conv1.weight[1] = 0
        network.layer1[0].bn1.bias[1] = -9
    masks = {'layer1.0.conv1.weight': network.layer1[0].conv1.weight != 0}
    assert find_cuts(network, (3, 8, 8), masks) == {}
    assert find_cuts(network, (3, 8, 8))['layer1.0.conv1'].outputs.tolist() == [0, 2, 3]


def test_a_bias_that_can_learn_keeps_its_channel():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1), nn.Flatten())
    with torch.no_grad():
        network[0].weight[1], network[0].bias[1] = 0, -1
    assert find_cuts(network, (3, 4, 4), {'0.weight': network[0].weight != 0}) == {}
    assert find_cuts(network, (3, 4, 4))['0'].outputs.tolist() == [0, 2, 3]
    network[0].bias = None
    assert find_cuts(network, (3, 4, 4), {'0.weight': network[0].weight != 0})['0'].outputs.tolist() == [0, 2, 3]


def test_a_psg_layer_sees_channels_without_kept_weights_unless_they_are_0():
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU6(), nn.Conv2d(5, 2, 3), nn.Flatten())
    network[0].bias = None
    masks = {'0.weight': torch.ones(5, 3, 3, 3, dtype=torch.bool), '3.weight': torch.ones(2, 5, 3, 3, dtype=torch.bool)}
    masks['0.weight'][2:4] = False  # 2 and 3 have no filter; nothing reads 1, 2 and 3
    masks['3.weight'][:, 1:4] = False
    apply_masks_(network, masks)

    def kept():
        return find_cuts(network, (3, 6, 6), masks)['0'].outputs.tolist()

    assert kept() == [0, 4]
    convert_psg_(network)
    assert kept() == [0, 1, 4]
    with torch.no_grad():
        network[1].bias[2:4] = torch.tensor([-1.0, 1.0])
    assert kept() == [0, 1, 3, 4]
    with exact_gradients(network):
        assert kept() == [0, 4]


def test_a_depthwise_psg_layer_sees_them_too():
    layers = (nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 5, 1, groups=5), nn.Conv2d(5, 2, 3), nn.Flatten())
    network = nn.Sequential(*layers)
    masks = {'0.weight': torch.ones(5, 3, 3, 3, dtype=torch.bool), '3.weight': torch.ones(2, 5, 3, 3, dtype=torch.bool)}
    masks['0.weight'][2] = False
    masks['3.weight'][:, 1:4] = False
    network[0].bias = network[2].bias = None
    apply_masks_(network, masks)
    convert_psg_(network)
    network[0].exact = network[3].exact = True
    assert find_cuts(network, (3, 6, 6), masks)['0'].outputs.tolist() == [0, 1, 3, 4]
    network[2].exact = True
    assert find_cuts(network, (3, 6, 6), masks)['0'].outputs.tolist() == [0, 4]


def test_a_training_keeps_two_channels():
    """A dimension of size 1 would look like that of Adafactor's rows and columns."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 12, bias=False), nn.Linear(12, 3))
    kept = torch.zeros(12, 4, dtype=torch.bool)
    kept[5] = True
    apply_masks_(network, {'1.weight': kept})
    optimizer = torch.optim.Adafactor(network.parameters())
    part = TrainedPart(network, find_cuts(network, (1, 2, 2), get_masks(network)))
    part.enter([optimizer])
    assert network[1].out_features == 2
    for _ in range(2):
        network(torch.randn(2, 1, 2, 2)).square().mean().backward()
        optimizer.step()
        part.leave()
    assert optimizer.state[network[1].weight]['row_var'].shape == (12, 1)
    assert optimizer.state[network[1].weight]['col_var'].shape == (1, 4)


def test_a_zero_weight_that_may_grow_is_read():
    network = CIFARResNet(8, width=4)
    nn.init.zeros_(network.layer1[0].conv2.weight)
    assert find_cuts(network, (3, 8, 8), {}) == {}


def test_dropout_draws_the_same_numbers():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False), nn.Dropout(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8, 2)
    )
    kill(network, 0.5)
    cuts = find_cuts(network, (3, 1, 1), get_masks(network))
    assert '0' not in cuts
    assert len(cuts['4'].inputs) == 8 if '4' in cuts else True
    assert find_cuts(network, (3, 1, 1))['0']


def test_a_mask_that_changes_is_refused():
    network = kill(CIFARResNet(8, width=8), 0.5)
    part = TrainedPart(network, find_cuts(network, (3, 8, 8), get_masks(network)))
    before = widths(network)
    part.enter([])
    network.layer1[0].conv1.weight_mask.fill_(True)
    with pytest.raises(ValueError, match='has changed'):
        part.leave()
    assert widths(network) == before


def test_a_batch_norm_that_averages_over_all_batches():
    network = nn.Sequential(nn.Conv2d(3, 5, 1, bias=False), nn.BatchNorm2d(5, momentum=None), nn.Conv2d(5, 2, 1))
    masks = {'2.weight': torch.ones(2, 5, 1, 1, dtype=torch.bool)}
    masks['2.weight'][:, 1:3] = False
    assert find_cuts(network, (3, 4, 4), masks)['1'].outputs.tolist() == [0, 3, 4]
    assert network[1].momentum is None
