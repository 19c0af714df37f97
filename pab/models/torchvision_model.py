"""The ImageNet networks, as torchvision defines them."""

from torch import nn
from torchvision import models

from ..registry import MODELS
from .checks import known_choice, positive_ints

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
    """An ImageNet residual network of torchvision, not pretrained.

    It is torchvision's own module: images (N, 3, H, W) -> logits (N, num_classes), and the names of its state dict are
    torchvision's.

    Args:
        name: one of ``TORCHVISION_NAMES``, else ValueError.
        num_classes: number of logits, >= 1.
    """
    known_choice('TorchvisionModel', 'name', name, TORCHVISION_NAMES)
    positive_ints('TorchvisionModel', num_classes=num_classes)
    return models.get_model(name, num_classes=num_classes)
