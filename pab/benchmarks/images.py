"""Images to load: those of $PAB_DATA, or random ones of the same layout where it has none."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..datasets import CIFAR10, ImageNet
from ..datasets.in_memory import InMemoryDataset
from ..registry import DATASETS


@DATASETS.register_module()
class RandomImages(InMemoryDataset):
    """Random colour images of ``size`` x ``size`` pixels, in ten classes."""

    def __init__(self, num_images: int, size: int = 32) -> None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (num_images, 3, size, size), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, 10, (num_images,), generator=generator)
        super().__init__(images, labels, [str(i) for i in range(10)])


def cifar(num_images: int) -> tuple[InMemoryDataset, str]:
    """Training images in memory, and where they come from."""
    try:
        return CIFAR10('train', num_samples=num_images), 'CIFAR-10'
    except FileNotFoundError:
        return RandomImages(num_images), 'random images (no CIFAR-10 in PAB_DATA)'


def photographs(num_images: int, scratch: Path) -> tuple[ImageNet, str]:
    """Photographs in a folder, and where they come from."""
    try:
        return ImageNet('train', num_samples=num_images, sample_seed=0), 'ImageNet'
    except (FileNotFoundError, ValueError):
        folders = [scratch / 'imagenet' / 'train' / name for name in ('noise', 'more noise')]  # a class each
        for folder in folders:
            folder.mkdir(parents=True)
        random = np.random.RandomState(0)
        for i in range(num_images):
            coarse = Image.fromarray(random.randint(0, 256, (38, 50, 3), dtype=np.uint8))
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folders[i % 2] / f'{i}.jpg', quality=90)
        return ImageNet('train', scratch), 'random images (no ImageNet in PAB_DATA)'
