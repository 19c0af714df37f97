"""The method as hooks: prune the network, lower the adaptivity rate, count flips, report."""

from .ar_decay import ARDecayHook
from .flip_count import FlipCountHook
from .prune import PruneHook
from .report import ReportHook

__all__ = ['ARDecayHook', 'FlipCountHook', 'PruneHook', 'ReportHook']
