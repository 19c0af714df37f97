"""What the tests of the pruners share."""

import contextlib
import logging

import torch
from mmengine.logging import MMLogger

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
