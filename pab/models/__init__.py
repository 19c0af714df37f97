"""Ordinary networks, each written once, their initial weights, and the classifier that mmengine trains."""

from .classifier import ImageClassifier
from .conv_net import ConvNet
from .initialization import SCHEMES, initialize_
from .preprocessor import ImagePreprocessor
from .resnet_cifar import CIFARResNet
from .torchvision_model import TORCHVISION_NAMES, TorchvisionModel
from .vgg import CIFARVGG
from .wide_resnet import WideResNet

__all__ = [
    'CIFARVGG',
    'SCHEMES',
    'TORCHVISION_NAMES',
    'CIFARResNet',
    'ConvNet',
    'ImageClassifier',
    'ImagePreprocessor',
    'TorchvisionModel',
    'WideResNet',
    'initialize_',
]
