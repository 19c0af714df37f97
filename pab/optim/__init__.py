"""Optimizers, and the rule that says which parameter belongs to which."""

from .bop import Bop

__all__ = ['Bop']
