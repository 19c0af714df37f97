"""What the tests of the pruners share."""

import contextlib
import json
import logging

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from torch import nn

from pab.pruners import check_masks
from pab.registry import PRUNERS

ALL = ['FlipFreq', 'GraSP', 'Mag', 'Rand', 'SNIP', 'SynFlow']
BOTH = ('Conv2d', 'Linear')


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


def shortcut_net() -> ShortcutNet:
    """Make one whose statistics and biases are not the identity."""
    torch.manual_seed(1)
    model = ShortcutNet()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    return model


def build(name, density=0.3, **settings):
    return PRUNERS.build(dict(type=name, density=density, **settings))


def total(masks):
    return sum(mask.numel() for mask in masks.values())


def kept(masks):
    return sum(int(mask.sum()) for mask in masks.values())


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train(model, optimizer, batches, steps=3):
    for _ in range(steps):
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()


def assert_pruned(model, masks, gradients=True):
    check_masks(model)
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert not weight[~mask].any()
        assert weight[mask].all()
        if weight.grad is not None and gradients:
            assert not weight.grad[~mask].any()
            assert weight.grad[mask].any()


@contextlib.contextmanager
def warnings_of():
    """A list of the warnings that are logged within the block."""
    messages, handler, logger = [], logging.Handler(), MMLogger.get_current_instance()
    handler.emit = lambda record: messages.append(record.getMessage())
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
