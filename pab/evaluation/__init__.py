"""Metrics of a validation run."""

from .accuracy import Accuracy
from .classes import ClassAccuracy, ClassResults

__all__ = ['Accuracy', 'ClassAccuracy', 'ClassResults']
