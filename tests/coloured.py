"""Photographs of one colour, and a network without training that tells the colours apart."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from pab.registry import MODELS

COLOURS = {'red': (255, 0, 0), 'green': (0, 255, 0), 'blue': (0, 0, 255)}
PREPROCESSING = dict(mean=[0.5] * 3, std=[0.5] * 3, resize=9, size=8)


@MODELS.register_module()
class ChannelMeans(nn.Module):
    """(N, C, H, W) -> (N, C): the mean of each channel, times a weight of 1."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) * self.scale


def draw(path: Path, colour=COLOURS['red'], size=(20, 13)) -> Path:
    """Write a photograph of one colour, and the folders it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, colour).save(path)
    return path
