"""End a run that is told to end, with nothing lost."""

import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

import torch
import torch.distributed as torch_dist
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import HOOKS

FILE = 'interrupted.pth'


@HOOKS.register_module()
class InterruptHook(Hook):
    """On Ctrl-C (SIGINT) or SIGTERM, finish the step, write a checkpoint, say how to resume, and end.

    The process ends with the conventional status, 130 or 143. Several processes agree on the step after which they
    stop, whichever of them was told. The checkpoint is ``interrupted.pth`` in the work dir; while a validation runs, a
    single process stops at once if the epoch's checkpoint is there, and otherwise when the validation is over. A
    second Ctrl-C to a single process ends it at once, without a checkpoint.
    """

    priority = 'LOWEST'  # after everything that belongs to the step

    def __init__(self) -> None:
        self._signal = 0
        self._previous: dict[int, object] = {}
        self._group = None
        self._saved_iter = -1

    def before_train(self, runner: Runner) -> None:
        """Listen, from now until training ends."""
        self._signal = 0
        if get_world_size() > 1:
            # the host's own group: asking each other does not wait for a device
            self._group = torch_dist.new_group(backend='gloo')
        if threading.current_thread() is threading.main_thread():  # no other may
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)

    def after_exit(self, runner: Runner) -> None:
        """Leave signals to whoever had them before."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Stop here if any process was told to."""
        if number := self._agreed():
            self._stop(runner, number, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Stop here if nothing would be lost."""
        if self._signal and self._group is None and self._previous and self._saved_iter == runner.iter:
            self._stop(runner, self._signal, None)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Stop here if any process was told to; a validation without a training has no checkpoint to write."""
        if self._previous and (number := self._agreed()):
            self._stop(runner, number, dict(epoch=runner.epoch, iter=runner.iter))

    def after_failed_fetch(self, runner: Runner) -> None:
        """Stop between steps when the signal has ended the loader's workers; several processes cannot agree here."""
        if self._signal and self._group is None:
            self._stop(runner, self._signal, dict(epoch=runner.epoch, iter=runner.iter))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note up to where everything is saved."""
        if 'optimizer' in checkpoint:
            self._saved_iter = checkpoint['meta']['iter']

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._signal and number == signal.SIGINT and self._group is None:
            raise KeyboardInterrupt
        self._signal = self._signal or number
        # A cluster tells every process of a job, so loaders end as well; their end must not break off the step.
        with contextlib.suppress(ValueError, OSError, AttributeError):
            signal.signal(signal.SIGCHLD, lambda *_: None)

    def _agreed(self) -> int:
        if self._group is None:
            return self._signal
        told = torch.tensor(self._signal)
        torch_dist.all_reduce(told, torch_dist.ReduceOp.MAX, group=self._group)
        return int(told)

    def _stop(self, runner: Runner, number: int, meta: dict | None) -> None:
        if meta is not None:
            runner.save_checkpoint(runner.work_dir, FILE, meta=meta, by_epoch=False)
        where = f'step {runner.iter + (meta is not None and meta["iter"] > runner.iter)} of {runner.max_iters}'
        runner.logger.warning(
            f'Stopped by {signal.Signals(number).name} after {where}; the checkpoint is in {runner.work_dir}. Go on '
            f'with\n  {resume_command(sys.argv, os.environ)}'
        )
        raise SystemExit(128 + number)


def resume_command(argv: Sequence[str], environment: os._Environ | dict[str, str]) -> str:
    """The command that goes on with a run that was started by ``argv``.

    ``PAB_COMMAND`` in the environment is what a launching script was called with, when there was one.
    """
    launched = environment.get('PAB_COMMAND')
    words = shlex.split(launched) if launched else ['python', *argv]
    kept: list[str] = []
    skip_value = False
    for word in words:
        if skip_value and not word.startswith('-'):
            skip_value = False
            continue
        skip_value = word == '--resume'
        if not skip_value and not word.startswith('--resume='):
            kept.append(word)
    command = shlex.join([*kept, '--resume'])
    if not launched and 'TORCHELASTIC_RUN_ID' in environment:
        return f'torchrun (as before) {shlex.join([*kept[1:], "--resume"])}'
    return command
