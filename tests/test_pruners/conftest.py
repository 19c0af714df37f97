"""The networks of the reference numbers, and their files."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pab.registry import MODELS, PRUNERS


class ShortcutNet(nn.Module):
    """Two convolutions and a 1x1 shortcut; the layers of golden/pruners.npz."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.short = nn.Conv2d(8, 16, 1, stride=2, bias=False)
        self.bns = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 10)

    def forward(self, images):
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)) + self.bns(self.short(x)))
        return self.fc(x.mean(dim=(2, 3)))


class Golden:
    """Arrays of one file, read on demand, with the state dict it holds."""

    def __init__(self, path):
        self.arrays = np.load(path)
        self.meta = json.loads(str(self.arrays['meta'])) if 'meta' in self.arrays.files else None

    def __getitem__(self, key):
        return torch.from_numpy(np.array(self.arrays[key]))

    def keys(self, prefix):
        return [key[len(prefix) :] for key in self.arrays.files if key.startswith(prefix)]

    def load_into(self, model):
        model.load_state_dict({key: self[f'state/{key}'] for key in self.keys('state/')})
        return model


@pytest.fixture(scope='session')
def golden(golden_folder):
    return Golden(golden_folder / 'pruners.npz')


@pytest.fixture(scope='session')
def golden_resnet20(golden_folder):
    return Golden(golden_folder / 'synflow_resnet20.npz')


@pytest.fixture
def resnet20():
    return MODELS.build(dict(type='CIFARResNet', depth=20))


@pytest.fixture
def net():
    """A small network with statistics and biases that are not the identity."""
    torch.manual_seed(1)
    model = ShortcutNet()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    return model


@pytest.fixture
def batches():
    stream = torch.Generator().manual_seed(2)
    return [(torch.randn(6, 3, 8, 8, generator=stream), torch.randint(10, (6,), generator=stream)) for _ in range(2)]


@pytest.fixture
def flips(net):
    stream = torch.Generator().manual_seed(3)
    return {
        f'{name}.weight': torch.randint(0, 9, module.weight.shape, generator=stream)
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


@pytest.fixture
def masks(net):
    return PRUNERS.build(dict(type='SynFlow', density=0.3, prunable=('Conv2d', 'Linear'))).prune(
        net, input_shape=(3, 8, 8)
    )
