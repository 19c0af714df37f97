"""What the tests of the pruners share."""

import contextlib
import logging

import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger

from pab.pruners import check_masks
from pab.registry import PRUNERS

ALL = ['FlipFreq', 'GraSP', 'Mag', 'Rand', 'SNIP', 'SynFlow']
BOTH = ('Conv2d', 'Linear')


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
