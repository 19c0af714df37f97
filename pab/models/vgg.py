"""VGG networks with BatchNorm for small images (arXiv 1409.1556)."""

from torch import Tensor, nn

from ..checks import check_ints, known_choice
from ..registry import MODELS


@MODELS.register_module()
class CIFARVGG(nn.Module):
    """VGG-11, 13, 16 or 19 with BatchNorm and one linear layer, for small images.

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
