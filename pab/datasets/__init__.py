"""Datasets, the order of their samples, and how samples become batches."""

from pab.datasets.cifar import CIFAR, CIFAR10, CIFAR100
from pab.datasets.collate import collate_images
from pab.datasets.decode import UnreadableImageError, decode_rgb
from pab.datasets.digits import Digits
from pab.datasets.imagenet import ImageNet
from pab.datasets.in_memory import InMemoryDataset
from pab.datasets.root import data_folder
from pab.datasets.sampler import EpochSampler, SampleIndex

__all__ = [
    'CIFAR',
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
