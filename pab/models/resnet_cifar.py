"""Residual networks for small images (arXiv 1512.03385): a 3x3 first layer, no early pooling."""

from torch import Tensor, nn

from ..registry import MODELS
from .checks import known_choice, positive_ints


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """The identity where the shape stays, else a 1x1 convolution with BatchNorm (option B of the paper)."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (N, in, H, W) -> (N, width, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut(in_channels, width, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 beside a shortcut: (N, in, H, W) -> (N, 4 width, H / stride, W / stride)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = shortcut(in_channels, 4 * width, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu3(out + self.shortcut(x))


@MODELS.register_module()
class CIFARResNet(nn.Module):
    """ResNet for small images, of three stages (depth 8 to 110) or four (depth 18, 34, 50, 101, 152).

    images (N, in_channels, H, W) -> logits (N, num_classes). Each stage after the first halves H and W and doubles the
    width; the mean over what is left of H and W goes to one linear layer, so any image of at least 1x1 will do.

    Args:
        depth: a key of ``STAGES``, else ValueError; it counts the convolutions of the main path and the linear layer.
        num_classes: number of logits, >= 1.
        in_channels: channels of the images, >= 1.
        width: channels of the first stage, >= 1; None: 16 with three stages, 64 with four.
    """

    # depth -> (block, blocks of each stage)
    STAGES = {
        **{depth: (BasicBlock, ((depth - 2) // 6,) * 3) for depth in (8, 14, 20, 32, 44, 56, 110)},
        18: (BasicBlock, (2, 2, 2, 2)),
        34: (BasicBlock, (3, 4, 6, 3)),
        50: (Bottleneck, (3, 4, 6, 3)),
        101: (Bottleneck, (3, 4, 23, 3)),
        152: (Bottleneck, (3, 8, 36, 3)),
    }

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3, width: int | None = None):
        super().__init__()
        known_choice('CIFARResNet', 'depth', depth, sorted(self.STAGES))
        block, stages = self.STAGES[depth]
        width = (16 if len(stages) == 3 else 64) if width is None else width
        positive_ints('CIFARResNet', width=width, num_classes=num_classes, in_channels=in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        channels = width
        for stage, blocks in enumerate(stages):
            layers = []
            for i in range(blocks):
                layers.append(block(channels, width << stage, stride=2 if stage and i == 0 else 1))
                channels = (width << stage) * block.expansion
            self.add_module(f'layer{stage + 1}', nn.Sequential(*layers))
        self.num_stages = len(stages)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        for stage in range(self.num_stages):
            x = getattr(self, f'layer{stage + 1}')(x)
        return self.linear(x.mean((2, 3)))
