"""Metrics of a validation run."""

from pab.evaluation.accuracy import Accuracy

__all__ = ['Accuracy']
