"""Ordinary networks, each written once, their initial weights, and the classifier that mmengine trains."""

from .classifier import ImageClassifier, network_of
from .initialization import SCHEMES, initialize_
from .library import TimmModel, TorchvisionModel
from .plain import CIFARVGG, ConvNet
from .preprocessor import ImagePreprocessor
from .residual import CIFARResNet, WideResNet
from .weights import load_weights_

__all__ = [
    'CIFARVGG',
    'SCHEMES',
    'CIFARResNet',
    'ConvNet',
    'ImageClassifier',
    'ImagePreprocessor',
    'TimmModel',
    'TorchvisionModel',
    'WideResNet',
    'initialize_',
    'load_weights_',
    'network_of',
]
