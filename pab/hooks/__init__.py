"""What happens around the training loop: pruning, adaptivity decay, flip counts, random state, reports."""

from .ar_decay import ARDecayHook
from .flip_count import FlipCountHook
from .plain_checkpoint import PlainCheckpointHook
from .prune import PruneHook
from .random_state import RandomStateHook
from .report import ReportHook

__all__ = ['ARDecayHook', 'FlipCountHook', 'PlainCheckpointHook', 'PruneHook', 'RandomStateHook', 'ReportHook']
