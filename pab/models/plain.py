"""Networks without shortcuts, for small images."""

from torch import Tensor, nn

from ..checks import check_ints, known_choice
from ..registry import MODELS


@MODELS.register_module()
class CIFARVGG(nn.Module):
    """VGG-11, 13, 16 or 19 (arXiv 1409.1556) with BatchNorm and one linear layer, for small images.

    images (N, in_channels, H, W), H and W >= 16, -> logits (N, num_classes). A max pool ends each group of convolutions
    but the last, which the mean over H and W follows, as in the networks of the SynFlow paper (arXiv 2006.05467); the
    convolutions have no biases, since BatchNorm would take them away.

    Args:
        depth: a key of ``GROUPS``; it counts the three linear layers of the original network.
        num_classes, in_channels: >= 1.
    """

    # depth -> convolutions in each of the five groups
    GROUPS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
    WIDTHS = (64, 128, 256, 512, 512)

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3):
        super().__init__()
        known_choice('CIFARVGG', 'depth', depth, self.GROUPS)
        check_ints('CIFARVGG', num_classes=num_classes, in_channels=in_channels)
        layers, channels = [], in_channels
        for group, width in zip(self.GROUPS[depth], self.WIDTHS, strict=True):
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(group):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.features(images).mean((2, 3)))


@MODELS.register_module()
class ConvNet(nn.Module):
    """Conv-2, Conv-4 or Conv-6: pairs of 3x3 convolutions, a max pool after each pair, three linear layers.

    images (N, in_channels, image_size, image_size) -> logits (N, num_classes). No BatchNorm.

    Args:
        depth: number of convolutions, a key of ``WIDTHS``.
        num_classes, in_channels: >= 1.
        image_size: height and width of the images in pixels; at least 2 for depth 2, 4 for 4, 8 for 6.
        bias: of all layers; they have it in arXiv 1803.03635 (lottery tickets), not in arXiv 1911.13299 (edge-popup).
    """

    WIDTHS = {2: (64,), 4: (64, 128), 6: (64, 128, 256)}  # depth -> channels of each pair

    def __init__(
        self, depth: int, num_classes: int = 10, in_channels: int = 3, image_size: int = 32, bias: bool = True
    ):
        super().__init__()
        known_choice('ConvNet', 'depth', depth, self.WIDTHS)
        check_ints('ConvNet', num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        widths = self.WIDTHS[depth]
        left = image_size >> len(widths)  # each pool halves, rounding down
        if left < 1:
            rule = f'pools {len(widths)} times and needs image_size >= {1 << len(widths)}'
            raise ValueError(f'ConvNet: depth {depth} {rule}, got {image_size!r}')
        layers, channels = [], in_channels
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=bias), nn.ReLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=bias), nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        self.image_size = image_size
        self.features = nn.Sequential(*layers)
        first, second = nn.Linear(channels * left * left, 256, bias=bias), nn.Linear(256, 256, bias=bias)
        self.hidden = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        self.linear = nn.Linear(256, num_classes, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        size, got = self.image_size, tuple(images.shape[2:])
        if got != (size, size):
            raise ValueError(f'ConvNet: images must be {size}x{size}, got {got}; set image_size to that of the data')
        return self.linear(self.hidden(self.features(images).flatten(1)))
