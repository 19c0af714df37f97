"""Metrics of a validation run."""

from .accuracy import Accuracy

__all__ = ['Accuracy']
