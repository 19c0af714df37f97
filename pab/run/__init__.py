"""The run: what launches, saves, resumes, interrupts or refuses it, on mmengine's runner.

==========================  =======================================================================
launch, config, allocator   from a command line to a checked config and a runner
distributed, restart        the processes of one run; jobs that are started again
runner, loops               the runner, the loop that resumes inside an epoch
loading, plain, storage     checkpoints: found and read safely, plain data, written whole or not at all
random_state, device_scalars, shared_statistics, gradient_compression
                            hooks: randomness by step; losses, statistics and gradients of processes
interrupt, divergence, layer_statistics, resume_check
                            hooks: end a run that is told to end, that diverged, or that is another
pruned                      pruning as a stage of its own
==========================  =======================================================================
"""

from .config import check_config
from .device_scalars import DeviceScalarsHook
from .divergence import DivergenceHook
from .gradient_compression import GradientCompressionHook
from .interrupt import InterruptHook
from .loops import ResumableEpochLoop
from .plain_checkpoint import PlainCheckpointHook
from .random_state import RandomStateHook
from .resume_check import ResumeCheckHook
from .runner import PabRunner
from .shared_statistics import SharedStatisticsHook

__all__ = [
    'DeviceScalarsHook',
    'DivergenceHook',
    'GradientCompressionHook',
    'InterruptHook',
    'PabRunner',
    'PlainCheckpointHook',
    'RandomStateHook',
    'ResumableEpochLoop',
    'ResumeCheckHook',
    'SharedStatisticsHook',
    'check_config',
]
