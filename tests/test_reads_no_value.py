"""No step reads a value back from the device: on the meta device, which has no values, a read raises an error."""

import pytest
import torch
from torch import nn

from pab.psg import PSGConfig, convert_psg_
from tests.registered import SIGN_OPTIMIZERS
from tests.test_latent.latents import WAYS, convert, plain

PSG = {
    'default': PSGConfig(),
    'grad_bits 8': PSGConfig(grad_bits=8),
    'bfloat16 product': PSGConfig(grad_bits=8, bfloat16_product=True),
    'signs, absolute threshold': PSGConfig(take_sign=True, relative=False, threshold=1e-3),
    'exact where small': PSGConfig(sparsify=False),
    'predictive forward': PSGConfig(predictive_forward=True),
    'wide codes': PSGConfig(input_bits=12),
    'full precision': PSGConfig(input_bits=32, grad_bits=32),
}


def small_network():
    """(N, 3, H, W) -> (N, 7)."""
    layers = [nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7))


def two_steps(network, optimizers, size=16):
    images = torch.empty(4, 3, size, size, device='meta')
    labels = torch.empty(4, dtype=torch.int64, device='meta')
    for _ in range(2):
        nn.functional.cross_entropy(network(images), labels).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def test_a_read_is_seen():
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.empty(3, device='meta').sum().item()


@pytest.mark.parametrize('name', SIGN_OPTIMIZERS)
def test_a_step_of_a_sign_optimizer(name):
    network = convert_psg_(small_network()).to('meta')
    signs = {param for name, param in network.named_parameters() if param.dim() == 4}
    rest = [param for param in network.parameters() if param not in signs]
    two_steps(network, [SIGN_OPTIMIZERS[name](signs), torch.optim.SGD(rest, lr=0.1)])


@pytest.mark.parametrize('psg', PSG)
def test_a_step_of_a_psg_layer(psg):
    network = convert_psg_(small_network(), PSG[psg]).to('meta')
    two_steps(network, [torch.optim.SGD(network.parameters(), lr=0.1)])


@pytest.mark.parametrize('way', WAYS)
def test_a_step_of_latents(way):
    network = convert(plain(), WAYS[way]).to('meta')
    two_steps(network, [torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)], 8)
