"""What a photograph goes through before it becomes part of a batch, as torchvision's transforms do it, on uint8."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as F


def random_crop(image: Tensor, size: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Crop a random part, resize it to (C, size, size), and mirror it with probability 1/2.

    The same as v2's RandomResizedCrop(size, scale, ratio) and RandomHorizontalFlip, with the same random numbers from
    torch's default generator, without their detour over nested samples, which costs as much as the flip.

    Args:
        image: (C, H, W) uint8.
        size: pixels of a side.
        scale: range of the part's share of the image's area.
        ratio: range of its width / height.
    """
    top, left, height, width = RandomResizedCrop.get_params(image, scale, ratio)
    crop = F.resized_crop(image, top, left, height, width, [size, size], antialias=True)
    return F.horizontal_flip(crop) if torch.rand(1) < 0.5 else crop


def centre_crop(image: Tensor, resize: int, size: int) -> Tensor:
    """Resize the shorter side to ``resize`` and cut (C, size, size) out of the centre."""
    return F.center_crop(F.resize(image, [resize], antialias=True), [size, size])


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Let torch's default CPU generator start from ``seed`` in the block, and go on as before after it; None: no-op."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed: in a worker that would queue a call for every GPU, sample after sample
        torch.default_generator.manual_seed(seed)
        yield
