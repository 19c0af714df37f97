"""Smaller networks have the logits of those they come from, whatever is dead in them and whatever the image's size."""

import copy

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.resnet import Bottleneck, ResNet

from pab.latent import Biprop, LatentSigns
from pab.models import CIFARVGG, CIFARResNet, ConvNet, ImageClassifier, WideResNet
from pab.narrowing import narrow, plain_copy
from pab.psg import convert_psg_
from tests.exported import used
from tests.test_narrowing.networks import kill, widths

MOBILE = [[1, 8, 1, 1], [3, 8, 2, 2]]
NETWORKS = {  # network, sizes of images
    'basic blocks': (lambda: CIFARResNet(8, width=8), (16, 17, 9)),
    'no BatchNorm': (lambda: ConvNet(4, image_size=13), (13,)),
    'no biases': (lambda: ConvNet(2, image_size=8, bias=False), (8,)),
    'pre-activation': (lambda: WideResNet(10, 1), (16, 15)),
    'plain': (lambda: CIFARVGG(11), (32, 37)),
    'bottlenecks, in place': (lambda: ResNet(Bottleneck, [1, 2, 1, 1], 10, width_per_group=8), (40, 33)),
    'groups': (lambda: ResNet(Bottleneck, [1, 1, 1, 1], 10, groups=4, width_per_group=8), (40,)),
    'depthwise': (lambda: models.MobileNetV2(10, inverted_residual_setting=MOBILE), (32, 41)),
    'concatenation': (lambda: models.DenseNet(8, (2, 2), 16, num_classes=10), (32,)),
}


def outputs(network, size, seed=1):
    with torch.no_grad():
        return network(torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(seed)))


def check(network, small, sizes):
    for size in sizes:
        expected = outputs(network.eval(), size)
        torch.testing.assert_close(outputs(small, size), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize('share', [pytest.param(0.3, marks=pytest.mark.slow), 0.8])
@pytest.mark.parametrize('name', NETWORKS)
def test_logits_are_the_same(name, share):
    make, sizes = NETWORKS[name]
    torch.manual_seed(0)
    network = kill(used(make()), share)
    small = narrow(network, (3, sizes[0], sizes[0]))
    check(network, small, sizes)
    before, after = widths(network), widths(small)
    assert before.keys() == after.keys()
    assert sum(a * b for a, b in after.values()) < sum(a * b for a, b in before.values())


class Two(nn.Module):
    """Two convolutions with BatchNorm and ReLU between them, the second with a given kernel and padding."""

    def __init__(self, kernel, padding, width=5):
        super().__init__()
        self.first, self.bn = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, 4, kernel, padding=padding, bias=False)

    def forward(self, x):
        return self.second(self.bn(self.first(x)).relu_()).mean((2, 3))


@pytest.mark.parametrize(
    'kernel, padding, left',
    # dead filters: 0 with a shift above 0, 1 with one below. Nobody reads 2. 3 and 4 live.
    [(3, 1, 3), (1, 0, 2), (3, 0, 2), (3, 'same', 3)],
)
def test_constants(kernel, padding, left):
    """Beside padding a constant stays; without, it moves into a bias; 0 goes in any case."""
    network = used(Two(kernel, padding))
    with torch.no_grad():
        network.first.weight[:2] = 0
        network.bn.bias[:2] = network.bn.running_mean[:2] + torch.tensor([3.0, -3.0])
        network.second.weight[:, 2] = 0
    small = narrow(network, (3, 9, 9), multiple=1)
    check(network, small, (9, 12))
    assert widths(small) == {'first': (left, 3), 'second': (4, left)}
    assert (small.second.bias is not None) == (left == 2)
    assert (small.first.out_channels, small.bn.num_features, small.second.in_channels) == (left, left, left)


def test_a_whole_dead_layer_keeps_one_channel():
    network = used(Two(3, 1))
    nn.init.zeros_(network.first.weight)
    nn.init.constant_(network.bn.bias, -5)
    small = narrow(network, (3, 8, 8), multiple=1)
    assert widths(small) == {'first': (1, 3), 'second': (4, 1)}
    check(network, small, (8, 11))


def test_what_only_feeds_itself_goes():
    """A filter that only dead filters read is as dead as they are; a stream loses a channel in all its members."""
    network = used(CIFARResNet(8, width=4))
    with torch.no_grad():
        network.layer1[0].conv1.weight[:, 2] = 0  # channel 2 of the first stream: nobody reads it
        for layer in (network.layer2[0].conv1, network.layer2[0].shortcut[0]):
            layer.weight[:, 2] = 0
        network.layer2[0].conv2.weight[:, 1] = 0  # filter 1 of its first convolution has no reader,
        network.layer2[0].conv1.weight[:, 3] = 0  # and channel 3 of the stream has only that one
        network.layer2[0].conv1.weight[1, 3] = 1
        network.layer2[0].shortcut[0].weight[:, 3] = 0
        network.layer1[0].conv1.weight[:, 3] = 0
    small = narrow(network, (3, 12, 12), multiple=1)
    check(network, small, (12, 13))
    found = widths(small)
    assert found['conv1'] == (2, 3)
    assert found['layer1.0.conv2'] == (2, 4)
    assert found['layer2.0.conv1'] == (7, 2)
    assert found['layer2.0.shortcut.0'] == (8, 2)


@pytest.mark.parametrize('share, multiple', [pytest.param(0.4, 4, marks=pytest.mark.slow), (0.8, 3)])
def test_multiples_of_channels(share, multiple):
    """What is kept without need reads channels that are gone; the logits do not see it."""
    torch.manual_seed(0)
    network = kill(used(CIFARResNet(8, width=10)), share)
    least, small = (widths(narrow(network, (3, 16, 16), multiple=each)) for each in (1, multiple))
    check(network, narrow(network, (3, 16, 16), multiple=multiple), (16, 9))
    for name, whole in widths(network).items():
        for before, needed, kept in zip(whole, least[name], small[name], strict=True):
            assert kept == min(-(-needed // multiple) * multiple, before)
    assert small != least and small != widths(network)
    for wrong in (0, 2.5, '4'):
        with pytest.raises(ValueError, match=f'narrow: multiple must be an int >= 1, got {wrong!r}'):
            narrow(network, (3, 16, 16), multiple=wrong)


class Shared(nn.Module):
    """A convolution that runs twice, its weight read once more, and an older alias of a changed tensor."""

    def __init__(self):
        super().__init__()
        self.first, self.twice = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.linear = nn.Linear(6, 2)

    def forward(self, x):
        raw = self.first(x)
        active = torch.relu_(raw)
        out = self.twice(self.twice(active)) + raw
        return self.linear(torch.flatten(out.mean((2, 3)), 1)) + self.twice.weight.mean()


@pytest.mark.parametrize('share', [0.4, 0.7])
def test_shared_layers_and_aliases(share):
    torch.manual_seed(1)
    network = kill(Shared(), share)
    check(network, narrow(network), (7, 10))


def test_psg_latents_and_a_classifier():
    for convert in (convert_psg_, LatentSigns('pruning'), Biprop(density=0.2)):
        torch.manual_seed(0)
        network = CIFARResNet(8, width=8)
        convert(network)
        model = ImageClassifier(kill(used(network), 0.5), init=None, input_shape=(3, 16, 16))
        before = copy.deepcopy(model.state_dict())
        small = narrow(model)
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in plain_copy(model).parameters())
        check(model, small, (16, 19))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Counting(Two):
    def forward(self, x):
        x = self.bn(self.first(x)).relu()
        return self.second(x.reshape(len(x), 5, *x.shape[2:])).mean((2, 3))


def test_a_forward_pass_that_counts_channels_is_refused():
    network = used(Counting(3, 1))
    nn.init.zeros_(network.second.weight[:, 1:])
    with pytest.raises(ValueError, match='takes no smaller layers'):
        narrow(network, (3, 8, 8))


def test_a_network_that_cannot_be_traced_is_refused():
    with pytest.raises(ValueError, match='cannot follow ConvNet on images of shape'):
        narrow(ConvNet(2, image_size=8), (3, 9, 9))


def test_narrow_types_and_networks_without_values():
    torch.manual_seed(0)
    for wrong in ('x', -1, float('nan')):
        with pytest.raises(ValueError, match='narrow: tolerance must be 0 or more, got'):
            narrow(CIFARResNet(8), tolerance=wrong)
    network = kill(used(CIFARResNet(8, width=8)), 0.5)
    with pytest.raises(
        ValueError, match=r'round so much in torch\.bfloat16: then it works on the network in a wider type'
    ):
        narrow(copy.deepcopy(network).bfloat16(), (3, 10, 10))
    narrow(copy.deepcopy(network).double(), (3, 10, 10), tolerance=1e-12)
    with pytest.raises(ValueError, match='narrow: the network is on the meta device'):
        narrow(network.to('meta'), (3, 8, 8))
