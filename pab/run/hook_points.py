"""The points of a run at which hooks are called: mmengine's and pab's own."""

import difflib
import functools
import inspect
from typing import ClassVar

from mmengine.hooks import Hook
from mmengine.runner import Runner

from .config import suggest

PREFIXES = ('before_', 'after_', 'check_')  # begin the name of every point


class RunHook(Hook):
    """A hook with the points that :class:`pab.run.PabRunner` adds to mmengine's. Hooks need not derive from it.

    Attributes:
        changes_training: False says that a training computes the same with other settings of the hook, or without it,
            so that they may change at a resume.
    """

    changes_training: ClassVar[bool] = True

    def before_checkpoint(self, runner: Runner) -> None:
        """Act on every process, before the content of a checkpoint is collected on the first one."""

    def check_resume(self, runner: Runner, checkpoint: dict) -> None:
        """Look at the content of a checkpoint, before a run that would go on from it takes anything; may raise."""

    def before_fetch(self, runner: Runner, batch_idx: int) -> None:
        """Act before a batch of the epoch is loaded, and once behind the last one.

        A resumed run loads again, and leaves out, the batches that it has used, if its sampler cannot skip them.
        """

    def after_scalars(self, runner: Runner, scalars: list[tuple[int, dict[str, float]]]) -> None:
        """Look at the losses that came from the device, as (step from 0, name -> value); on every process at once."""

    def after_exit(self, runner: Runner) -> None:
        """Clean up when training ends, also by an error."""


HOOK_POINTS = {*Hook.stages, *(name for name in vars(RunHook) if name.startswith(PREFIXES))}
"""Every known point. A training loop with points of its own adds their names here."""


def check_hook(hook: Hook) -> None:
    """Raise a ValueError for a method of a hook that is named like a point and is none; it names those most like it.

    That is any ``before_...`` and ``after_...``, and what takes a runner and is named almost like a point.
    """
    _check_class(type(hook))


@functools.cache  # for a process that starts several runs
def _check_class(cls: type[Hook]) -> None:
    for name in dir(cls):
        method = getattr(cls, name)
        if name.startswith('_') or name in HOOK_POINTS or not callable(method):
            continue
        almost = 'runner' in inspect.signature(method).parameters and difflib.get_close_matches(
            name, HOOK_POINTS, cutoff=0.8
        )
        if name.startswith(('before_', 'after_')) or almost:
            raise ValueError(
                f'{cls.__name__}: no hook is ever called at {name!r}; {suggest(name, HOOK_POINTS, "the points are")} A '
                'method of your own begins with an underscore, a point of your own is added to '
                'pab.run.hook_points.HOOK_POINTS'
            )
