"""Residual networks for small images (arXiv 1512.03385): a 3x3 first layer, no early pooling."""

from torch import Tensor, nn

from ..checks import check_ints, known_choice
from ..registry import MODELS


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """The identity where the shape stays, else a 1x1 convolution with BatchNorm (option B of the paper)."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


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
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))


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
        return self.relu3(self.bn3(self.conv3(out)) + self.shortcut(x))


def make_stage(block: type[nn.Module], in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks in a row, of which the first takes ``in_channels`` and has the stride."""
    layers = [block(in_channels, width, stride)]
    layers += [block(width * block.expansion, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)


@MODELS.register_module()
class CIFARResNet(nn.Module):
    """ResNet for small images, of three stages (depth 8 to 110) or four (depth 18, 34, 50, 101, 152).

    images (N, in_channels, H, W) -> logits (N, num_classes). Each stage after the first halves H and W and doubles the
    width; the mean over what is left of H and W goes to one linear layer, so any image of at least 1x1 will do.

    Args:
        depth: a key of ``STAGES``; it counts the convolutions of the main path and the linear layer.
        num_classes, in_channels: >= 1.
        width: channels of the first stage, >= 1; None: 16 with three stages, 64 with four.

    Raises:
        ValueError: for an argument outside these rules, as all networks do.
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
        check_ints('CIFARResNet', width=width, num_classes=num_classes, in_channels=in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        channels = width
        for stage, blocks in enumerate(stages):
            layer = make_stage(block, channels, width << stage, blocks, stride=2 if stage else 1)
            self.add_module(f'layer{stage + 1}', layer)
            channels = (width << stage) * block.expansion
        self.num_stages = len(stages)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        for stage in range(self.num_stages):
            x = getattr(self, f'layer{stage + 1}')(x)
        return self.linear(x.mean((2, 3)))
