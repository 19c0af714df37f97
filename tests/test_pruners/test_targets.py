"""Which weights are prunable."""

from pathlib import Path

import pytest
from mmengine.config import Config
from torch import nn

from pab.pruners import prunable_layers, register_masks_
from pab.registry import MODELS
from tests.test_pruners.pruning import build

CONFIGS = Path(__file__).parents[2] / 'configs' / 'pab'


@pytest.mark.parametrize(
    ('prunable', 'found'),
    [
        (['Conv2d'], 'conv1 conv2 short'),
        (['Linear'], 'fc'),
        (['Conv2d.weight', 'Linear.weight'], 'conv1 conv2 short fc'),
        (['Conv2d', '!name:short.*'], 'conv1 conv2'),
        (['name:conv*', 'Linear'], 'conv1 conv2 fc'),
        (['name:*'], 'conv1 conv2 short fc'),  # no scales of batch norm, no biases
        (['name:*', '!Linear'], 'conv1 conv2 short'),
    ],
)
def test_prunable_weights(prunable, found, net):
    assert list(prunable_layers(net, prunable)) == [f'{layer}.weight' for layer in found.split()]
    masks = build('Mag', 0.3, prunable=prunable).prune(net)
    assert list(masks) == list(register_masks_(net, prunable)) == [f'{layer}.weight' for layer in found.split()]


@pytest.mark.parametrize(
    ('prunable', 'text'),
    [
        (['Conv2d', 'Conv3d'], r"'Conv3d' matches no weight of ShortcutNet with .*; the layers with one are Conv2d, L"),
        (['Conv2d', 'BatchNorm2d'], "'BatchNorm2d' matches no weight of ShortcutNet with two or more dimensions"),
        (['Conv2d.bias'], "'Conv2d.bias' matches no weight"),
        (['Conv2d', '!name:*.downsample.*'], r"'!name:\*\.downsample\.\*' matches no weight"),
        (['Conv2d', '!name:*'], 'leaves out every weight that it selects'),
    ],
)
def test_patterns_that_find_nothing(prunable, text, net):
    with pytest.raises(ValueError, match=f'prunable: .*{text}'):
        build('Mag', prunable=prunable).prune(net)


def test_the_research_codes_imagenet_variant():
    cfg = Config.fromfile(str(CONFIGS / 'r50_imagenet_reference.py'))
    network = MODELS.build(cfg.model.network)
    pruner = cfg.default_hooks.prune.pruner
    masks = register_masks_(network, pruner.prunable)
    convolutions = [f'{name}.weight' for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)]
    dense = [name for name in convolutions if name not in masks]
    assert dense == [f'layer{stage}.0.downsample.0.weight' for stage in (1, 2, 3, 4)]
    assert 'fc.weight' in masks
    assert len(masks) == 53 - 4 + 1
    weights = {name: network.get_parameter(name).numel() for name in [*convolutions, 'fc.weight']}
    kept = sum(size * (pruner.density if name in masks else 1) for name, size in weights.items())
    assert kept / sum(weights.values()) == pytest.approx(0.554, abs=1e-3)
    assert cfg.optim_wrapper.optimizers.signs.first_step == 'gradient'
