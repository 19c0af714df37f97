"""The run: what launches, saves, resumes, interrupts or refuses it, on mmengine's runner.

==========================  =======================================================================
launch, config, allocator   from a command line to a checked config and a runner
distributed                 the processes of one run
runner, loops               the runner, the loop that resumes inside an epoch
work_dir                    which checkpoint a run goes on from, and whether it may begin in a folder
checkpoint                  what a checkpoint holds: written as plain data, read safely
storage                     files that are whole or not there, and downloads
hook_points                 the points at which hooks are called
random_state, device_scalars, shared_statistics, gradient_compression
                            hooks: randomness by step; losses, statistics and gradients of processes
interrupt, divergence, layer_statistics, resume_check
                            hooks: end a run that is told to end, that diverged, or that is another
pruned                      pruning as a stage of its own
==========================  =======================================================================
"""

from .checkpoint import CheckpointFormatHook
from .config import check_config
from .device_scalars import DeviceScalarsHook
from .divergence import DivergenceHook
from .gradient_compression import GradientCompressionHook
from .hook_points import RunHook
from .interrupt import InterruptHook
from .loops import ResumableEpochLoop
from .random_state import RandomStateHook
from .resume_check import ResumeCheckHook
from .runner import PabRunner
from .shared_statistics import SharedStatisticsHook

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
