"""The method as hooks: prune the network, lower the adaptivity rate, count flips, average, report."""

from .ar_decay import ARDecayHook
from .ema import EMAHook
from .flip_count import FlipCountHook
from .prune import PruneHook
from .report import ReportHook

__all__ = ['ARDecayHook', 'EMAHook', 'FlipCountHook', 'PruneHook', 'ReportHook']
