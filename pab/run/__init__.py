"""The run: what launches, saves, resumes, interrupts or refuses it, on mmengine's runner.

===========================  =====================================================================================
launch, config, allocator    from a command line to a checked config and a runner
distributed                  the processes of one run; hooks: the statistics and the gradients they share
runner                       the runner
loops                        the loop that resumes inside an epoch; a hook: randomness that depends on the step alone
work_dir                     which checkpoint a run goes on from, and whether it may begin in a folder
checkpoint                   what a checkpoint holds: written as plain data, read safely
storage                      files that are whole or not there, and downloads
hook_points                  the points at which hooks are called
device_scalars               a hook: losses that stay on the device until they are read
interrupt, divergence,       hooks: end a run that is told to end, that diverged, or that is another than the one
resume_check                 that it would go on with
pruned                       pruning as a stage of its own
===========================  =====================================================================================
"""

from .checkpoint import CheckpointFormatHook
from .config import check_config
from .device_scalars import DeviceScalarsHook
from .distributed import GradientCompressionHook, SharedStatisticsHook
from .divergence import DivergenceHook
from .hook_points import RunHook
from .interrupt import InterruptHook
from .loops import RandomStateHook, ResumableEpochLoop
from .resume_check import ResumeCheckHook
from .runner import PabRunner

__all__ = [
    'CheckpointFormatHook',
    'DeviceScalarsHook',
    'DivergenceHook',
    'GradientCompressionHook',
    'InterruptHook',
    'PabRunner',
    'RandomStateHook',
    'ResumableEpochLoop',
    'ResumeCheckHook',
    'RunHook',
    'SharedStatisticsHook',
    'check_config',
]
