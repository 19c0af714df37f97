"""Pruning before training: scores, exact selection, and masks on a model."""

from pab.pruners.base import INGREDIENTS, Pruner
from pab.pruners.flipfreq import FlipFreq
from pab.pruners.grasp import GraSP
from pab.pruners.mag import Mag
from pab.pruners.masks import (
    apply_masks_,
    check_masks,
    check_state_masks,
    get_masks,
    install_mask_hooks_,
    register_masks_,
)
from pab.pruners.network import ScoringNetwork
from pab.pruners.rand import Rand
from pab.pruners.report import density_table, empty_tensors
from pab.pruners.schedules import SCHEDULES, kept_count, shot_density
from pab.pruners.snip import SNIP
from pab.pruners.streams import Streams
from pab.pruners.synflow import SynFlow
from pab.pruners.targets import prunable_layers

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
    'Streams',
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
