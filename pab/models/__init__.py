"""Ordinary networks, each written once, their initial weights, and the classifier that mmengine trains."""

from .classifier import ImageClassifier
from .initialization import SCHEMES, initialize_
from .resnet_cifar import CIFARResNet

__all__ = ['SCHEMES', 'CIFARResNet', 'ImageClassifier', 'initialize_']
