"""Wide residual networks for small images (arXiv 1605.07146)."""

from torch import Tensor, nn

from ..checks import check_ints
from ..registry import MODELS
from .resnet_cifar import make_stage


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
    """WideResNet-depth-widen_factor for small images; WRN-28-10 has 36.5 million parameters.

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
