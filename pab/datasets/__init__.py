"""Datasets, the order of their samples, and how samples become batches."""

from .cifar import CIFAR10, CIFAR100
from .common import data_folder
from .decode import UnreadableImageError, decode_rgb
from .imagenet import ImageNet
from .in_memory import Digits, InMemoryDataset, collate_images
from .sampler import EpochSampler, SampleIndex

__all__ = [
    'CIFAR10',
    'CIFAR100',
    'Digits',
    'EpochSampler',
    'ImageNet',
    'InMemoryDataset',
    'SampleIndex',
    'UnreadableImageError',
    'collate_images',
    'data_folder',
    'decode_rgb',
]
