"""The points of a run at which hooks are called: mmengine's and pab's own. A name that is no point is an error."""

import difflib

from mmengine.hooks import Hook
from mmengine.runner import Runner

PREFIXES = ('before_', 'after_', 'check_')  # begin the name of every point


class RunHook(Hook):
    """A hook with the points that :class:`pab.run.PabRunner` adds to mmengine's. Hooks need not derive from it."""

    def before_checkpoint(self, runner: Runner) -> None:
        """Act on every process, before the content of a checkpoint is collected on the first one."""

    def check_resume(self, runner: Runner, checkpoint: dict) -> None:
        """Look at the content of a checkpoint, before a run that would go on from it takes anything; may raise."""

    def after_scalars(self, runner: Runner, scalars: list[tuple[int, dict[str, float]]], data_batch) -> None:
        """Look at the losses that have come from the device: (step from 0, name -> value), and the newest batch.

        It is called on every process at the same steps; see :class:`pab.run.DeviceScalarsHook`.
        """

    def after_exit(self, runner: Runner) -> None:
        """Clean up when training ends, also by an error."""


HOOK_POINTS = {*Hook.stages, *(name for name in vars(RunHook) if name.startswith(PREFIXES))}
"""Every known point. A training loop with points of its own adds their names here."""


def check_point(name: str, who: str = 'call_hook') -> None:
    """Verify that a point exists.

    Raises:
        ValueError: it does not; the error names ``who`` uses it and the point most like it.
    """
    if name not in HOOK_POINTS:
        close = difflib.get_close_matches(name, HOOK_POINTS, n=1)
        hint = f'did you mean {close[0]}?' if close else f'the points are {", ".join(sorted(HOOK_POINTS))}'
        raise ValueError(
            f'{who}: no hook is ever called at {name!r}; {hint} A method of your own begins with an underscore, a '
            'point of your own is added to pab.run.hook_points.HOOK_POINTS'
        )


def check_hook(hook: Hook) -> None:
    """Verify that every method of a hook that is named like a point is one; raises as :func:`check_point` does."""
    cls = type(hook)
    for name in dir(cls):
        if name.startswith(PREFIXES) and callable(getattr(cls, name)):
            check_point(name, cls.__name__)
