"""Ordinary networks, each written once, their initial weights, and the classifier that mmengine trains."""

from .classifier import ImageClassifier, network_of
from .initialization import SCHEMES, initialize_
from .plain import CIFARVGG, ConvNet
from .preprocessor import ImagePreprocessor
from .residual import TORCHVISION_NAMES, CIFARResNet, TorchvisionModel, WideResNet

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
    'network_of',
]
