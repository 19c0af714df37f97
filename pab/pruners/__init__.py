"""Pruning before training: scores, exact selection, and masks on a model."""

from .base import INGREDIENTS, Pruner
from .flipfreq import FlipFreq
from .grasp import GraSP
from .mag import Mag
from .masks import apply_masks_, check_masks, check_state_masks, density_table, drop_masks_, get_masks, register_masks_
from .rand import Rand
from .schedules import kept_count, linear
from .scoring_network import ScoringNetwork
from .snip import SNIP
from .summary import describe_kept_share
from .synflow import SynFlow
from .targets import prunable_layers

__all__ = [
    'INGREDIENTS',
    'SNIP',
    'FlipFreq',
    'GraSP',
    'Mag',
    'Pruner',
    'Rand',
    'ScoringNetwork',
    'SynFlow',
    'apply_masks_',
    'check_masks',
    'check_state_masks',
    'density_table',
    'describe_kept_share',
    'drop_masks_',
    'get_masks',
    'kept_count',
    'linear',
    'prunable_layers',
    'register_masks_',
]
