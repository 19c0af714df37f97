"""Every hook of pab.

Hooks of one point run in the order of their priorities, and of equal ones in the order in which they are registered,
those of the config's ``default_hooks`` first. With *looks on*, a training computes the same without the hook
(``changes_training``), so that a run may be resumed with other settings of it.

=======================  ==============  ==================================================================  ========
hook                     priority        why there                                                           training
=======================  ==============  ==================================================================  ========
**method**
PruneHook, RewindHook    HIGH            others see the pruned network                                       changes
MovesHook                HIGH            before costs are counted; every run has it                          changes
RigLHook                 HIGH            the last step's switch is off before costs are counted              changes
SignInHook               HIGH            others see the balanced weights                                     changes
ARDecayHook              HIGH            its scheduler is there before a checkpoint restores its state       changes
EMAHook                  NORMAL          mmengine's                                                          changes
FlipCountHook            ABOVE_NORMAL    the logger and the checkpoint have the epoch's count                looks on
**watch**
CostHook                 ABOVE_NORMAL    behind pruning, before the logger, the report and the checkpoint    looks on
ReportHook               LOW             behind all that trains, before the epoch's checkpoint               looks on
**guards**
RandomStateHook          VERY_HIGH       whatever draws in a step draws from its seed                        changes
DeviceScalarsHook        VERY_HIGH       mmengine's RuntimeInfoHook, whose place it takes                    looks on
DivergenceHook           NORMAL          acts inside the update                                              looks on
DataCheckHook            VERY_HIGH       before anything prunes or trains; every run has it                  looks on
MetricCheckHook          VERY_HIGH       before anything prunes or trains; every run has it                  looks on
ResumeCheckHook          NORMAL          asked before anything is loaded                                     looks on
SharedStatisticsHook     LOW             behind what exchanges the model for an averaged one                 looks on
EarlyStoppingHook        LOW             before a checkpoint that a new best result writes                   changes
CheckpointHook           VERY_LOW        mmengine's, in its place                                            looks on
InterruptHook            LOWEST          after everything that belongs to the step                           looks on
CheckpointFormatHook     LOWEST          after every hook that adds to a checkpoint; every run has it        looks on
=======================  ==============  ==================================================================  ========
"""

from .guards.checkpoint import CheckpointHook
from .guards.checkpoint_form import CheckpointFormatHook
from .guards.data_check import DataCheckHook
from .guards.device_scalars import DeviceScalarsHook
from .guards.divergence import DivergenceHook
from .guards.early_stopping import EarlyStoppingHook
from .guards.interrupt import InterruptHook
from .guards.metric_check import MetricCheckHook
from .guards.random_state import RandomStateHook
from .guards.resume_check import ResumeCheckHook
from .guards.shared_statistics import SharedStatisticsHook
from .method.ar_decay import ARDecayHook
from .method.ema import EMAHook
from .method.flip_count import FlipCountHook
from .method.moves import MovesHook
from .method.prune import PruneHook
from .method.rewind import RewindHook
from .method.rigl import RigLHook
from .method.sign_in import SignInHook
from .watch.costs import CostHook
from .watch.report import ReportHook

__all__ = [
    'ARDecayHook',
    'CheckpointFormatHook',
    'CheckpointHook',
    'CostHook',
    'DataCheckHook',
    'DeviceScalarsHook',
    'DivergenceHook',
    'EMAHook',
    'EarlyStoppingHook',
    'FlipCountHook',
    'InterruptHook',
    'MetricCheckHook',
    'MovesHook',
    'PruneHook',
    'RandomStateHook',
    'ReportHook',
    'ResumeCheckHook',
    'RewindHook',
    'RigLHook',
    'SharedStatisticsHook',
    'SignInHook',
]
