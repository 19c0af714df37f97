"""End a run that is told to end, with nothing lost."""

import contextlib
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import FrameType

import torch
import torch.distributed as torch_dist
from mmengine.dist import get_world_size

from ...command import words_of
from ...registry import HOOKS
from ...run import PabRunner, RunHook
from ...run.loops import EnduringLoader
from ...run.work_dir import NOT_FOR_RESUME

FILE = 'interrupted.pth'


@HOOKS.register_module()
class InterruptHook(RunHook):
    """On Ctrl-C (SIGINT) or SIGTERM, finish the step, write a checkpoint, say how to resume, and end.

    The process ends with the conventional status, 130 or 143. Several processes stop after the same step, within some
    two seconds, whichever was told. The checkpoint is ``interrupted.pth`` in the work dir, or, where weights are not
    finite, a ``diverged_`` one that no resume takes. While a validation runs, a single process stops at once if the
    epoch's checkpoint is there; otherwise the run stops when the validation is over. A second Ctrl-C to a single
    process ends it at once, without a checkpoint.
    """

    priority = 'LOWEST'
    changes_training = False

    _signal, _saved_iter, _votes, _previous = 0, -1, None, {}

    def before_train(self, runner: PabRunner) -> None:
        """Listen, from now until training ends."""
        self._signal, self._previous = 0, {}
        EnduringLoader.workers_may_end = False
        self._votes = _Votes() if get_world_size() > 1 else None
        if threading.current_thread() is threading.main_thread():  # no other may
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)

    def after_exit(self, runner: PabRunner) -> None:
        """Leave signals to whoever had them before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def after_train_iter(self, runner: PabRunner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Stop here if the processes agree to."""
        now = self.end_of_epoch(runner.train_dataloader, batch_idx) or self.is_last_train_iter(runner)
        if number := self._agreed(now):
            self._stop(runner, number, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def after_val_iter(self, runner: PabRunner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Stop here if nothing would be lost."""
        if self._signal and self._votes is None and self._previous and self._saved_iter == runner.iter:
            self._stop(runner, self._signal, None)

    def after_val_epoch(self, runner: PabRunner, metrics: dict[str, float] | None = None) -> None:
        """Stop here if any process was told to; a validation without a training has no checkpoint to write."""
        if self._previous and (number := self._agreed(True)):
            self._stop(runner, number, dict(epoch=runner.epoch, iter=runner.iter))

    def before_save_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        """Note up to where everything is saved."""
        if 'optimizer' in checkpoint:
            self._saved_iter = checkpoint['meta']['iter']

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._signal and number == signal.SIGINT and self._votes is None:
            raise KeyboardInterrupt
        self._signal = self._signal or number
        # A cluster tells every process of a job, so loaders end as well; their end must not break off the step.
        EnduringLoader.workers_may_end = True
        with contextlib.suppress(ValueError, OSError, AttributeError):
            signal.signal(signal.SIGCHLD, lambda *_: None)

    def _agreed(self, now: bool) -> int:
        return self._signal if self._votes is None else self._votes.outcome(self._signal, now)

    def _stop(self, runner: PabRunner, number: int, meta: dict | None) -> None:
        step, bad = runner.iter if meta is None else meta['iter'], runner.non_finite()
        if meta is not None:
            file = f'{NOT_FOR_RESUME}iter_{step}.pth' if bad else FILE
            runner.save_checkpoint(runner.work_dir, file, meta=meta, by_epoch=False)
        saved = f'no resume takes {bad}, which is not finite' if bad else f'the checkpoint is in {runner.work_dir}'
        runner.logger.warning(
            f'Stopped by {signal.Signals(number).name} after step {step} of {runner.max_iters}; {saved}. Go on with\n'
            f'  {resume_command(sys.argv, os.environ)}'
        )
        raise SystemExit(128 + number)


class _Votes:
    """Lets processes find out, without waiting for each other in a step, that one of them was told to end.

    About once a second, and at least in every 50th step, each sends the others the signal it was told and the seconds
    of a step, and reads the largest when it sends again. That is after the same step on all of them: the steps between
    follow from the largest of the time before. A vote in every step would cost 0.3 ms, 2 % of a step of 20 ms.
    """

    def __init__(self) -> None:
        self._group = torch_dist.new_group(backend='gloo')  # of the host: no wait for a device
        self._vote, self._work = torch.tensor([0, torch.inf]), None
        self._interval, self._steps, self._began = 1, 0, time.monotonic()

    def outcome(self, number: int, now: bool) -> int:
        """The highest signal that a process was told, 0 for none; the same on all processes.

        ``number`` is the one that this process was told; ``now`` waits for the others' present votes.
        """
        self._steps += 1
        if self._steps < self._interval and not now:
            return 0
        agreed, seconds = self._read(), (time.monotonic() - self._began) / self._steps
        self._steps, self._began = 0, time.monotonic()
        self._vote = torch.tensor([number, seconds], dtype=torch.float64)
        self._work = torch_dist.all_reduce(self._vote, torch_dist.ReduceOp.MAX, group=self._group, async_op=True)
        return max(agreed, self._read()) if now else agreed

    def _read(self) -> int:
        if self._work:
            self._work.wait()
        number, seconds = self._vote.tolist()
        self._interval = int(min(max(1 / max(seconds, 1e-3), 1), 50))
        return int(number)


def resume_command(argv: Sequence[str], environment: Mapping[str, str]) -> str:
    """The command that goes on with a run started by ``argv``, or by a launching script, as ``PAB_COMMAND`` says."""
    launched = environment.get('PAB_COMMAND')
    words, kept = shlex.split(launched) if launched else words_of(argv), []
    for before, word in pairwise(['', *words]):
        value_of_resume = before == '--resume' and not word.startswith('-')
        if not (value_of_resume or word == '--overwrite' or word.startswith('--resume')):
            kept.append(word)
    if not launched and 'TORCHELASTIC_RUN_ID' in environment:
        return f'torchrun (as before) {shlex.join([*kept[kept[0] == "python" :], "--resume"])}'
    return shlex.join([*kept, '--resume'])
