"""What happens around the training loop: pruning, adaptivity decay, flip counts, random state, reports."""

from .ar_decay import ARDecayHook
from .device_scalars import DeviceScalarsHook
from .divergence import DivergenceHook
from .flip_count import FlipCountHook
from .gradient_compression import GradientCompressionHook
from .interrupt import InterruptHook
from .plain_checkpoint import PlainCheckpointHook
from .prune import PruneHook
from .random_state import RandomStateHook
from .report import ReportHook
from .resume_check import ResumeCheckHook
from .shared_statistics import SharedStatisticsHook

__all__ = [
    'ARDecayHook',
    'DeviceScalarsHook',
    'DivergenceHook',
    'FlipCountHook',
    'GradientCompressionHook',
    'InterruptHook',
    'PlainCheckpointHook',
    'PruneHook',
    'RandomStateHook',
    'ReportHook',
    'ResumeCheckHook',
    'SharedStatisticsHook',
]
