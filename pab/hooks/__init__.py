"""The method as hooks: prune, rewind, lower the adaptivity rate, count flips and costs, average, report."""

from .ar_decay import ARDecayHook
from .costs import CostHook
from .data_check import DataCheckHook
from .ema import EMAHook
from .flip_count import FlipCountHook
from .prune import PruneHook
from .report import ReportHook
from .rewind import RewindHook

__all__ = [
    'ARDecayHook',
    'CostHook',
    'DataCheckHook',
    'EMAHook',
    'FlipCountHook',
    'PruneHook',
    'ReportHook',
    'RewindHook',
]
