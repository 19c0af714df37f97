"""What every network must do, one table for all of them."""

import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pab.models import CIFARVGG, TORCHVISION_NAMES, CIFARResNet, ConvNet, initialize_
from pab.pruners import apply_masks_, check_masks, register_masks_
from pab.psg import PSGConv2d, convert_psg_
from pab.registry import MODELS, PRUNERS


def entry(type_: str, size: int, parameters: int, **kwargs):
    """One network: its config, the side of the smallest images that suit it, its parameters with 10 or 1000 classes."""
    config = {'type': type_, **kwargs}
    return pytest.param(config, size, parameters, id='-'.join(map(str, config.values())))


# Counts of the CIFAR networks: the papers' (0.27M and 1.7M, here with projections: + 2,752; 36.5M; VGG 9.2M to 20.0M;
# Conv-2 4.3M, Conv-4 2.4M) and, for ResNet-18 to 152, those of the common 32x32 variants, digit for digit.
ZOO = [
    entry('CIFARResNet', 8, 78_042, depth=8),
    entry('CIFARResNet', 8, 175_258, depth=14),
    entry('CIFARResNet', 8, 269_722 + 2_752, depth=20),
    entry('CIFARResNet', 8, 464_154 + 2_752, depth=32),
    entry('CIFARResNet', 8, 658_586 + 2_752, depth=44),
    entry('CIFARResNet', 8, 853_018 + 2_752, depth=56),
    entry('CIFARResNet', 8, 1_727_962 + 2_752, depth=110),
    entry('CIFARResNet', 8, 11_173_962, depth=18),
    entry('CIFARResNet', 8, 21_282_122, depth=34),
    entry('CIFARResNet', 8, 23_520_842, depth=50),
    entry('CIFARResNet', 8, 42_512_970, depth=101),
    entry('CIFARResNet', 8, 58_156_618, depth=152),
    entry('WideResNet', 8, 36_479_194, depth=28, widen_factor=10),
    entry('CIFARVGG', 16, 9_228_362, depth=11),
    entry('CIFARVGG', 16, 9_413_066, depth=13),
    entry('CIFARVGG', 16, 14_724_042, depth=16),
    entry('CIFARVGG', 16, 20_035_018, depth=19),
    entry('ConvNet', 32, 4_301_642, depth=2),
    entry('ConvNet', 32, 2_425_930, depth=4),
    entry('ConvNet', 32, 2_262_602, depth=6),
    entry('TorchvisionModel', 32, 11_689_512, name='resnet18'),
    entry('TorchvisionModel', 32, 21_797_672, name='resnet34'),
    entry('TorchvisionModel', 32, 25_557_032, name='resnet50'),
    entry('TorchvisionModel', 32, 44_549_160, name='resnet101'),
    entry('TorchvisionModel', 32, 60_192_808, name='resnet152'),
    entry('TorchvisionModel', 32, 25_028_904, name='resnext50_32x4d'),
    entry('TorchvisionModel', 32, 88_791_336, name='resnext101_32x8d'),
    entry('TorchvisionModel', 32, 68_883_240, name='wide_resnet50_2'),
    entry('TorchvisionModel', 32, 126_886_696, name='wide_resnet101_2'),
]
every_network = pytest.mark.parametrize(('config', 'size', 'parameters'), ZOO)
# one of each kind of block; the others repeat them more or less often
KINDS = {
    *('CIFARResNet-8', 'CIFARResNet-18', 'CIFARResNet-50', 'WideResNet-28-10', 'CIFARVGG-11', 'ConvNet-2'),
    *('TorchvisionModel-resnet18', 'TorchvisionModel-resnet50', 'TorchvisionModel-resnext50_32x4d'),
}
one_of_each_kind = pytest.mark.parametrize(('config', 'size', 'parameters'), [case for case in ZOO if case.id in KINDS])


def test_the_table_is_complete():
    assert {case.id for case in ZOO} > KINDS
    listed = [case.values[0] for case in ZOO]
    # other tests register networks of their own
    ours = {name for name, entry in MODELS.module_dict.items() if entry.__module__.startswith('pab.')}
    networks = ours - {'ImageClassifier', 'ImagePreprocessor', 'CompactNetwork'}  # the last is whichever a file holds
    assert {config['type'] for config in listed} == networks
    for name, depths in {
        'CIFARResNet': CIFARResNet.STAGES,
        'CIFARVGG': CIFARVGG.GROUPS,
        'ConvNet': ConvNet.WIDTHS,
    }.items():
        assert {config['depth'] for config in listed if config['type'] == name} == set(depths)
    assert [config['name'] for config in listed if config['type'] == 'TorchvisionModel'] == list(TORCHVISION_NAMES)


def test_every_entry_describes_itself_in_one_line():
    for name, entry in MODELS.module_dict.items():
        first, *rest = entry.__doc__.splitlines()
        assert first.endswith('.'), name
        assert not rest or not rest[0].strip(), name


@every_network
def test_parameters_and_shape(config, size, parameters):
    with torch.device('meta'):
        network = MODELS.build(config)
        logits = network(torch.empty(2, 3, size, size))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert logits.shape == (2, 1000 if config['type'] == 'TorchvisionModel' else 10)


def slim(layer: nn.Module, factor: int, num_classes: int) -> nn.Module:
    """The same layer with 1 / ``factor`` of its channels and groups; images keep 3 channels, logits their number."""

    def part(channels: int) -> int:
        return channels if channels in (1, 3, num_classes) else channels // factor

    bias = getattr(layer, 'bias', None) is not None
    if isinstance(layer, nn.Conv2d):
        geometry = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, part(layer.groups), bias)
        return nn.Conv2d(part(layer.in_channels), part(layer.out_channels), *geometry)
    if isinstance(layer, nn.Linear):
        return nn.Linear(part(layer.in_features), part(layer.out_features), bias)
    # the statistics of one batch must do: averaged over the first steps, they let the deepest networks overflow
    return nn.BatchNorm2d(part(layer.num_features), momentum=1.0)


def build(config: dict, factor: int) -> nn.Module:
    """The network with 7 classes; its large layers never exist."""
    with torch.device('meta'):
        network = MODELS.build({**config, 'num_classes': 7})
    for name, layer in list(network.named_modules()):
        if any(True for _ in layer.parameters(recurse=False)):
            network.set_submodule(name, slim(layer, factor, num_classes=7))
    return initialize_(network)


@one_of_each_kind
def test_converts_prunes_trains_saves_and_loads(config, size, parameters):
    """At an eighth of the width, except for ResNet-8: everything else about the network is as it is."""
    factor = 1 if parameters < 2e6 else 8
    network = convert_psg_(build(config, factor))
    convs = {f'{name}.weight': m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    assert all(type(layer) is PSGConv2d for layer in convs.values())
    images, labels = torch.randn(4, 3, size, size), torch.tensor([0, 6, 3, 3])

    masks = PRUNERS.build({'type': 'Rand', 'density': 0.5}).prune(network, seed=1)
    total = sum(layer.weight.numel() for layer in convs.values())
    assert masks.keys() == convs.keys()
    assert sum(int(mask.sum()) for mask in masks.values()) == total - total // 2
    apply_masks_(network, masks)

    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    assert [name for name, parameter in network.named_parameters() if torch.equal(parameter, before[name])] == []
    check_masks(network)
    with torch.no_grad():
        network(images)  # the statistics of the final weights

    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    twin = convert_psg_(build(config, factor))
    register_masks_(twin)
    twin.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        logits = network.eval()(images)
        assert logits.isfinite().all()
        assert torch.equal(twin.eval()(images), logits)
