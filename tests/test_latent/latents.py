"""A network for tests of latents, and every way to give it some."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pab.models import initialize_
from pab.registry import CONVERTERS

WAYS = {
    **{mode: dict(type='LatentSigns', mode=mode) for mode in ('flipping', 'pruning', 'ternary')},
    'edge-popup': dict(type='EdgePopup', density=0.3),
    'edge-popup, global': dict(type='EdgePopup', density=0.3, scope='global'),
    'biprop': dict(type='Biprop', density=0.3),
    'biprop, global': dict(type='Biprop', density=0.3, scope='global'),
}
DRAWN = list(WAYS)  # whose latents are drawn, beside weights that stay
WAYS['sign-in'] = dict(type='SignIn')
every_way = pytest.mark.parametrize('way', WAYS)
every_way_that_draws = pytest.mark.parametrize('way', DRAWN)


class Standardized(nn.Conv2d):
    """A convolution of one's own: its forward pass reads the weight itself, and it has a parameter more."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(1))

    def initialize_(self, stream):
        self.gain.data.fill_(1 + stream('gain').random_sample())

    def forward(self, input):
        weight = self.gain * (self.weight - self.weight.mean())
        return F.conv2d(input, weight, self.bias, self.stride, self.padding)


def plain(seed: int = 0) -> nn.Sequential:
    """(N, 3, 8, 8) -> (N, 5): three convolutions, one of them with a bias and one grouped."""
    return initialize_(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(6, 6, 1, groups=2, bias=False),
            nn.Flatten(),
            nn.Linear(54, 5),
        ),
        seed=seed,
    )


def convert(network: nn.Module, *ways: dict, seed: int = 0) -> nn.Module:
    """Converted in the order of the ways, and drawn by a seed."""
    for way in ways:
        CONVERTERS.build(way)(network)
    return initialize_(network, seed=seed)


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]


def scores_(layer: nn.Module, *values: float) -> nn.Module:
    """The layer with these scores."""
    layer.scores.data = torch.tensor(values).view_as(layer.scores)
    return layer
