"""The run: what launches, saves, resumes or refuses it, on mmengine's runner.

===========================  =====================================================================================
launch, config, allocator    from a command line to a checked config and a runner
distributed                  the processes of one run
face, runner                 what a run may be asked, and the runner
loops                        the loop that resumes inside an epoch
work_dir                     which checkpoint a run goes on from, and whether it may begin in a folder
checkpoint                   what a checkpoint holds: written as plain data, read safely
storage                      where the files of a run are: downloads, old checkpoints
schedulers                   the schedulers of a resumed run whose settings changed
hook_points                  the points at which hooks are called
===========================  =====================================================================================
"""

from .config import check_config
from .face import RunFace
from .hook_points import RunHook
from .loops import ResumableEpochLoop
from .runner import PabRunner

__all__ = ['PabRunner', 'ResumableEpochLoop', 'RunFace', 'RunHook', 'check_config']
