"""Datasets, the order of their samples, and how samples become batches."""

from .auto import asks_data, settle_auto
from .cifar import CIFAR10, CIFAR100
from .classes import (
    NamedClasses,
    class_names,
    classes_in,
    count_classes,
    difference,
    names_for,
    number_classes_,
)
from .decode import UnreadableImageError, decode_rgb, to_grey
from .image_folder import ImageFolder, ImageNet, image_files
from .in_memory import Digits, InMemoryDataset, collate_images
from .sampler import BalancedSampler, EpochSampler, SampleIndex
from .torchvision import TorchvisionDataset

__all__ = [
    'CIFAR10',
    'CIFAR100',
    'BalancedSampler',
    'Digits',
    'EpochSampler',
    'ImageFolder',
    'ImageNet',
    'InMemoryDataset',
    'NamedClasses',
    'SampleIndex',
    'TorchvisionDataset',
    'UnreadableImageError',
    'asks_data',
    'class_names',
    'classes_in',
    'collate_images',
    'count_classes',
    'decode_rgb',
    'difference',
    'image_files',
    'names_for',
    'number_classes_',
    'settle_auto',
    'to_grey',
]
