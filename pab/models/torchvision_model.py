"""The ImageNet networks, as torchvision defines them."""

from torch import nn
from torchvision import models

from ..checks import check_ints, known_choice
from ..registry import MODELS

TORCHVISION_NAMES = (
    'resnet18',
    'resnet34',
    'resnet50',
    'resnet101',
    'resnet152',
    'resnext50_32x4d',
    'resnext101_32x8d',
    'wide_resnet50_2',
    'wide_resnet101_2',
)


@MODELS.register_module()
def TorchvisionModel(name: str, num_classes: int = 1000) -> nn.Module:
    """An ImageNet residual network, one of ``TORCHVISION_NAMES``, not pretrained.

    It is torchvision's own module: images (N, 3, H, W) -> logits (N, num_classes), and the names of its state dict are
    torchvision's.
    """
    known_choice('TorchvisionModel', 'name', name, TORCHVISION_NAMES)
    check_ints('TorchvisionModel', num_classes=num_classes)
    return models.get_model(name, num_classes=num_classes)
