"""The run itself, on mmengine's runner: what is logged, saved, resumed and refused."""

from .config import check_config
from .loops import ResumableEpochLoop
from .runner import PabRunner

__all__ = ['PabRunner', 'ResumableEpochLoop', 'check_config']
