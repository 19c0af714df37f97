"""One training in a process of its own: it goes on where it stopped, and never runs twice at a time."""

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ..files import write_atomically
from .plan import Training
from .results import read_result, write_result

CONFIG, LOCK, LOG = 'config.py', 'compare.lock', 'compare.log'  # files in the folder of a training
INTERRUPTED = {128 + number for number in (signal.SIGINT, signal.SIGTERM)} | {-signal.SIGINT, -signal.SIGTERM}
PAUSE = 1.0  # seconds between two looks at a lock that another process holds


class TrainingFailed(Exception):
    """A training has ended without a result, for the reason in the text."""


class TrainingStopped(Exception):
    """A training was stopped before its end."""


@dataclass
class Trainer:
    """Run trainings, each in a process of its own, and wait for them; threads may share a trainer.

    The process inherits a lock on a file in its folder. If this one is killed, a later one waits for the process that
    still trains instead of starting the same training twice.

    Args:
        command: the program that trains, called with the arguments of ``pab train``.
        threads: of each process, unless OMP_NUM_THREADS is set; None leaves them to torch.
        tell: called with a sentence if a training has to wait.
    """

    command: Sequence[str]
    threads: int | None = None
    tell: Callable[[str], None] = print
    stopped: bool = field(default=False, init=False)
    _processes: set[subprocess.Popen] = field(default_factory=set, init=False)

    def __call__(self, training: Training) -> None:
        """Train to the end and write the result, unless it is there.

        Raises:
            TrainingFailed: by an error, or because its result cannot be read.
            TrainingStopped: by :meth:`stop`, or because others told the process to end.
            ValueError: the folder holds the result of other settings.
        """
        training.folder.mkdir(parents=True, exist_ok=True)
        with (training.folder / LOCK).open('a') as lock:
            self._acquire(lock, training)
            if read_result(training) is None:
                self._train(training, lock)
                try:
                    with (training.folder / LOG).open('a') as log:
                        write_result(training, lambda text: print(text, file=log))
                except (OSError, ValueError) as error:
                    raise TrainingFailed(f'it has ended, but its result cannot be read: {error}') from error

    def stop(self) -> None:
        """Let trainings write a checkpoint and end; a second call kills them."""
        number = signal.SIGKILL if self.stopped else signal.SIGTERM
        self.stopped = True
        for process in list(self._processes):
            process.send_signal(number)

    def _acquire(self, lock: IO, training: Training) -> None:
        told = False
        while not self.stopped:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    self.tell(f'{training.title}: a process that was started before still trains it; waiting')
                told = True
                time.sleep(PAUSE)
        raise TrainingStopped

    def _train(self, training: Training, lock: IO) -> None:
        folder, run = training.folder, training.run
        write_atomically(run.config.encode(), folder / CONFIG)
        command = [*self.command, str(folder / CONFIG), '--seed', str(training.seed), '--work-dir', str(folder)]
        if any(folder.glob('*.pth')):
            command.append('--resume')
        environment = dict(os.environ)
        if self.threads and 'OMP_NUM_THREADS' not in environment:  # which is the user's word on it
            environment = {'MKL_NUM_THREADS': str(self.threads), **environment, 'OMP_NUM_THREADS': str(self.threads)}
        if run.imports:
            environment['PYTHONPATH'] = os.pathsep.join(filter(None, (os.environ.get('PYTHONPATH'), str(run.imports))))
        with (folder / LOG).open('ab') as log, _preemption_blocked():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[lock.fileno()],
                start_new_session=True,  # Ctrl-C in a terminal reaches it by stop(), once, and not by the terminal too
            )
            self._processes.add(process)
        if self.stopped:  # since the last look
            process.terminate()
        try:
            status = process.wait()
        except BaseException:  # a job that is cancelled
            process.terminate()
            raise
        finally:
            self._processes.discard(process)
        if status in INTERRUPTED or (status and self.stopped):
            raise TrainingStopped
        if status:
            raise TrainingFailed(f'it ended with status {status}: {last_line(folder / LOG)}')


def last_line(path: Path) -> str:
    """The last line of a log that is not empty, '' where there is none."""
    return re.split(r'[\r\n]+', path.read_bytes().decode(errors='replace').strip())[-1].strip()


@contextlib.contextmanager
def _preemption_blocked() -> Iterator[None]:
    """Start processes that SIGUSR2 does not end: a cluster sends it to a whole job, for its first process to act."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
