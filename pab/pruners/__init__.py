"""Pruning before training: scores, exact selection, and masks on a model."""

from .base import INGREDIENTS, Pruner
from .density_table import density_table, empty_tensors
from .flipfreq import FlipFreq
from .grasp import GraSP
from .mag import Mag
from .masks import (
    apply_masks_,
    check_masks,
    check_state_masks,
    get_masks,
    install_mask_hooks_,
    register_masks_,
)
from .network import ScoringNetwork
from .rand import Rand
from .schedules import SCHEDULES, kept_count, shot_density
from .snip import SNIP
from .synflow import SynFlow
from .targets import prunable_layers

__all__ = [
    'INGREDIENTS',
    'SCHEDULES',
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
    'empty_tensors',
    'get_masks',
    'install_mask_hooks_',
    'kept_count',
    'prunable_layers',
    'register_masks_',
    'shot_density',
]
