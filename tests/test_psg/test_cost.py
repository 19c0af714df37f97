"""Convolutions that a step runs, and bytes that it saves for the backward pass."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pab.psg import PSGConfig, PSGConv2d, PSGLinear, convert_psg_


class ConvolutionCounter(TorchDispatchMode):
    """One for a forward convolution, one for each of the two gradients asked of a backward one."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name == 'convolution':
            self.count += 1
        elif name == 'convolution_backward':
            self.count += sum(args[-1][:2])
        return func(*args, **(kwargs or {}))


def saved_bytes(model, x):
    """Bytes of the distinct storages that autograd keeps of a forward pass, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}

    def pack(t):
        storage = t.untyped_storage()
        storages[storage.data_ptr()] = storage  # held, so that no other takes its place
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(x)
    return sum(storage.nbytes() for place, storage in storages.items() if place not in parameters)


def convolutions_of_a_step(layer, x):
    with ConvolutionCounter() as counter:
        layer(x).sum().backward()
    return counter.count


@pytest.mark.parametrize(
    ('psg', 'want'),
    [
        (PSGConfig(), 3),
        (PSGConfig(take_sign=True, threshold=0.05), 3),
        (PSGConfig(sparsify=False), 4),
        (PSGConfig(predictive_forward=True), 4),
    ],
)
def test_convolutions_in_a_step(psg, want):
    layer, x = PSGConv2d(3, 4, 3, psg=psg), torch.randn(2, 3, 8, 8)
    assert convolutions_of_a_step(layer, x.requires_grad_()) == want


def test_first_layer_and_frozen_layer_run_two():
    layer, x = PSGConv2d(3, 4, 3), torch.randn(2, 3, 8, 8)
    assert convolutions_of_a_step(layer, x) == 2
    layer.weight.requires_grad_(False)
    assert convolutions_of_a_step(layer, x.requires_grad_()) == 2


@pytest.mark.parametrize(
    ('psg', 'size'),
    [
        (PSGConfig(), 1),
        (PSGConfig(input_bits=4), 1),
        (PSGConfig(input_bits=12), 2),
        (PSGConfig(input_bits=24), 4),
        (PSGConfig(sparsify=False), 4),
    ],
)
@pytest.mark.parametrize('linear', [False, True])
def test_bytes_for_each_entry_of_the_input(psg, size, linear):
    layer = PSGLinear(32, 3, psg=psg) if linear else PSGConv2d(3, 4, 3, psg=psg)
    x = torch.rand(16, 32) if linear else torch.rand(2, 3, 16, 16)
    assert x.numel() * size <= saved_bytes(layer, x) <= x.numel() * size + 8  # low and scale


def test_nothing_is_encoded_without_a_weight_gradient():
    layer = PSGConv2d(3, 4, 3)
    layer.weight.requires_grad_(False)
    assert saved_bytes(layer, torch.rand(2, 3, 16, 16, requires_grad=True)) == 0


@pytest.mark.parametrize('channels_last', [False, True])
def test_bytes_of_a_residual_block(channels_last):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
            self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
            self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

        def forward(self, x):
            return self.relu2(x + self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))

    x = torch.randn(4, 8, 16, 16)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    net = nn.Sequential(*(Block() for _ in range(3)))
    dense = saved_bytes(net, x)
    # for each convolution: its float output (BatchNorm), and the float input or else a code and a mask
    assert saved_bytes(convert_psg_(net), x) <= 0.78 * dense
