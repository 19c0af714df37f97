"""A step of Bop beside torch's SGD with momentum and the baseline, on the convolutions of a network."""

import os
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor, nn

from ..optim import Bop
from ..registry import MODELS
from .baseline import PerParameterBop
from .timing import Row, Settings, alternate, row

REQUIRED = {'Bop': {'cpu': 1.3, 'cuda': 1.1}, 'Bop, uncompiled': {'cpu': 4.0}}  # of the step of SGD, on ResNet-18


def measure(settings: Settings) -> list[Row]:
    """ResNet-18's 11.2 million weights, and the 0.27 million of ResNet-20."""
    depths = {8: dict(width=4)} if settings.tiny else {18: {}, 20: {}}
    return [r for depth, options in depths.items() for r in _measure(depth, options, settings)]


def _measure(depth: int, options: dict, settings: Settings) -> list[Row]:
    def weights() -> list[Tensor]:
        network = MODELS.build(dict(type='CIFARResNet', depth=depth, **options))
        network.to(settings.device, memory_format=torch.channels_last)
        generator = torch.Generator(settings.device).manual_seed(0)
        convs = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        for weight in convs:
            weight.grad = torch.empty_like(weight).normal_(std=1e-4, generator=generator)
        return convs

    kind = 'fused' if settings.device == 'cuda' else 'foreach'
    peer = f'SGD, momentum, {kind}'
    optimizers = {
        'Bop': Bop(weights()),
        'Bop, uncompiled': Bop(weights()),
        peer: torch.optim.SGD(weights(), lr=1e-3, momentum=0.9, **{kind: True}),
        'SGD, momentum, fused': torch.optim.SGD(weights(), lr=1e-3, momentum=0.9, fused=True),
        'baseline': PerParameterBop(weights()),
    }
    steps = {name: optimizer.step for name, optimizer in optimizers.items()}
    seconds = alternate({**steps, 'Bop, uncompiled': _uncompiled(steps['Bop, uncompiled'])}, settings)
    count = sum(p.numel() for group in optimizers['Bop'].param_groups for p in group['params'])
    case = f'ResNet-{depth}, {count / 1e6:.2f} M weights'
    required = {name: bounds.get(settings.device) for name, bounds in REQUIRED.items() if depth == 18}
    return [row('bop', case, n, seconds, None if n == peer else peer, required.get(n)) for n in optimizers]


def _uncompiled(step: Callable) -> Callable:
    def run() -> None:
        with patch.dict(os.environ, PAB_COMPILE='0'):
            step()

    return run
