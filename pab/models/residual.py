"""Residual networks for small images, with a 3x3 first layer and no early pooling."""

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
    """ResNet for small images (arXiv 1512.03385), of three stages (depth 8 to 110) or four.

    images (N, in_channels, H, W) -> logits (N, num_classes). Each stage after the first halves H and W and doubles the
    width; the mean over the remaining H and W goes to one linear layer, so any image of at least 1x1 will do.

    Args:
        depth: a key of ``STAGES``; it counts the convolutions of the main path and the linear layer.
        num_classes, in_channels: >= 1.
        width: channels of the first stage, >= 1; None: 16 with three stages, 64 with four.

    Every network raises a ValueError for an argument outside its rules.
    """

    STAGES = {  # depth -> (block, blocks of each stage)
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


class PreActivationBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions: (N, in, H, W) -> (N, width, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        changes = stride != 1 or in_channels != width
        self.shortcut = nn.Conv2d(in_channels, width, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        # a projection reads the activated input, the identity the raw one, as in the authors' code
        return out + (x if self.shortcut is None else self.shortcut(active))


@MODELS.register_module()
class WideResNet(nn.Module):
    """WideResNet-depth-widen_factor (arXiv 1605.07146); WRN-28-10 has 36.5 million parameters.

    images (N, in_channels, H, W) -> logits (N, num_classes); three stages, of which the second and the third halve H
    and W. Without the dropout that the paper tries inside the blocks.

    Args:
        depth: 6 n + 4 with n >= 1 blocks in each stage: 10, 16, 22, 28, 34, 40, ...
        widen_factor: the stages have 16, 32 and 64 times this many channels, >= 1.
        num_classes, in_channels: >= 1.
    """

    def __init__(self, depth: int = 28, widen_factor: int = 10, num_classes: int = 10, in_channels: int = 3):
        super().__init__()
        if not isinstance(depth, int) or depth < 10 or depth % 6 != 4:
            raise ValueError(f'WideResNet: depth must be 6 n + 4 (10, 16, 22, 28, 34, 40, ...), got {depth!r}')
        check_ints('WideResNet', widen_factor=widen_factor, num_classes=num_classes, in_channels=in_channels)
        width, blocks = 16 * widen_factor, (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = make_stage(PreActivationBlock, 16, width, blocks, stride=1)
        self.layer2 = make_stage(PreActivationBlock, width, 2 * width, blocks, stride=2)
        self.layer3 = make_stage(PreActivationBlock, 2 * width, 4 * width, blocks, stride=2)
        self.bn = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        return self.linear(self.relu(self.bn(x)).mean((2, 3)))
