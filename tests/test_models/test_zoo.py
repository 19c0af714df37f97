"""The size and the output of every network, in one table."""

import pytest
import torch

from pab.models import CIFARVGG, CIFARResNet, ConvNet
from pab.registry import MODELS
from tests.registered import ALL_NETWORKS


def entry(type_: str, size: int, parameters: int, **kwargs):
    """One network: its config, the side of the smallest images that suit it, its parameters with 10 classes."""
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
]


def test_the_table_is_complete():
    listed = [case.values[0] for case in ZOO]
    # tests/test_models/test_library.py has those of other libraries
    assert {config['type'] for config in listed} == ALL_NETWORKS.keys() - {'TorchvisionModel', 'TimmModel'}
    tables = {'CIFARResNet': CIFARResNet.STAGES, 'CIFARVGG': CIFARVGG.GROUPS, 'ConvNet': ConvNet.WIDTHS}
    for name, depths in tables.items():
        assert {config['depth'] for config in listed if config['type'] == name} == set(depths)


@pytest.mark.parametrize(('config', 'size', 'parameters'), ZOO)
def test_parameters_and_shape(config, size, parameters):
    with torch.device('meta'):
        network = MODELS.build(config).eval()
        logits = network(torch.empty(2, 3, size, size))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert logits.shape == (2, 10)
