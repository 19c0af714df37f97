"""Single networks: by hand, by stored weights, and what they refuse."""

import numpy as np
import pytest
import torch
from torch import nn

from pab.models import CIFARVGG, CIFARResNet, ConvNet, WideResNet

SMALL = {
    'resnet-8': lambda **kw: CIFARResNet(depth=8, width=4, **kw),
    'resnet-18': lambda **kw: CIFARResNet(depth=18, width=2, **kw),
    'resnet-50': lambda **kw: CIFARResNet(depth=50, width=2, **kw),
    'wide-resnet': lambda **kw: WideResNet(depth=10, widen_factor=1, **kw),
    'vgg-11': lambda **kw: CIFARVGG(depth=11, **kw),
    'conv-2': lambda **kw: ConvNet(depth=2, image_size=16, **kw),
}
small_networks = pytest.mark.parametrize('build', SMALL.values(), ids=SMALL)


def test_resnet20_loads_the_stored_one(golden_folder):
    stored = np.load(golden_folder / 'synflow_resnet20.npz')
    state = {key[6:]: torch.from_numpy(stored[key]) for key in stored.files if key.startswith('state/')}
    network = CIFARResNet(depth=20)
    assert network.state_dict().keys() == state.keys()
    network.load_state_dict(state, strict=True)


def test_resnet8_by_hand():
    """Parameters of one block a stage, widths 2, 4, 8, one input channel, three classes."""
    conv = 18 + (36 + 36) + (72 + 144 + 8) + (288 + 576 + 32)  # first layer, then conv1 + conv2 (+ shortcut)
    norm = 2 * (2 + 2 * 2 + 3 * 4 + 3 * 8)
    network = CIFARResNet(depth=8, width=2, in_channels=1, num_classes=3)
    assert sum(p.numel() for p in network.parameters()) == conv + norm + 8 * 3 + 3


@small_networks
def test_arguments_reach_the_layers(build):
    network = build(in_channels=1, num_classes=3)
    assert network(torch.rand(2, 1, 16, 16)).shape == (2, 3)


@small_networks
def test_every_relu_is_its_own_and_keeps_its_output(build):
    network = build()
    relus = [module for module in network.modules() if isinstance(module, nn.ReLU)]
    assert all(not relu.inplace for relu in relus)
    calls = []
    for relu in relus:
        relu.register_forward_hook(lambda module, _, out: calls.append((module, out, out._version)))
    network(torch.rand(2, 3, 16, 16)).sum().backward()
    assert len(calls) == len(relus) == len({id(module) for module, _, _ in calls})
    assert all(out._version == version for _, out, version in calls)


def test_stages_halve_the_image():
    sizes = []
    network = CIFARResNet(depth=18, width=2)
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        stage.register_forward_hook(lambda _, inputs, out: sizes.append(tuple(out.shape[1:])))
    network(torch.rand(1, 3, 32, 32))
    assert sizes == [(2, 32, 32), (4, 16, 16), (8, 8, 8), (16, 4, 4)]


def test_wide_resnet_block_by_hand():
    """A projection reads the activated input, an identity the raw one."""
    network = WideResNet(depth=16, widen_factor=2).eval()
    x = torch.randn(1, 16, 4, 4)
    projecting, plain = network.layer1
    for block in (projecting, plain):
        nn.init.zeros_(block.conv2.weight)
    scale = 1 / (1 + projecting.bn1.eps) ** 0.5
    torch.testing.assert_close(projecting(x), projecting.shortcut((x * scale).relu()))
    x = torch.randn(1, 32, 4, 4)
    assert torch.equal(plain(x), x)


def test_conv_nets_without_biases_and_of_odd_sizes():
    with torch.device('meta'):
        network = ConvNet(depth=6, bias=False)
    assert all(name.endswith('weight') for name, _ in network.named_parameters())
    assert sum(p.numel() for p in network.parameters()) == 2_261_184
    assert ConvNet(depth=4, image_size=9)(torch.rand(1, 3, 9, 9)).shape == (1, 10)  # each pool rounds down


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: CIFARResNet(depth=19), r'CIFARResNet: unknown depth 19; known: 8, 14, 18, 20, .*, 110, 152'),
        (lambda: CIFARResNet(depth=20, width=0), 'CIFARResNet: width must be an int >= 1, got 0'),
        (lambda: CIFARResNet(depth=20, num_classes=0), 'CIFARResNet: num_classes must be an int >= 1, got 0'),
        (lambda: CIFARResNet(depth=20, in_channels=1.0), 'CIFARResNet: in_channels must be an int >= 1, got 1.0'),
        (lambda: WideResNet(depth=27), r'WideResNet: depth must be 6 n \+ 4 \(10, 16, .*\), got 27'),
        (lambda: WideResNet(widen_factor=0), 'WideResNet: widen_factor must be an int >= 1, got 0'),
        (lambda: CIFARVGG(depth=12), 'CIFARVGG: unknown depth 12; known: 11, 13, 16, 19'),
        (lambda: ConvNet(depth=3), 'ConvNet: unknown depth 3; known: 2, 4, 6'),
        (lambda: ConvNet(depth=6, image_size=7), 'ConvNet: depth 6 pools 3 times and needs image_size >= 8, got 7'),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_conv_net_says_which_size_it_was_built_for():
    with pytest.raises(ValueError, match=r'ConvNet: images must be 32x32, got \(8, 8\); set image_size'):
        ConvNet(depth=2)(torch.rand(1, 3, 8, 8))
