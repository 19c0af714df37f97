"""All trainings on this machine, some at a time."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager

from .plan import Training
from .training import Trainer

Ended = Callable[[Training, BaseException | None], None]
"""Called with a training that has ended, and with the error that it ended by."""


def threads_of_each(jobs: int) -> int:
    """Threads for each of ``jobs`` processes that share the cores of this machine."""
    return max(1, len(os.sched_getaffinity(0)) // jobs)


def train_here(trainer: Trainer, trainings: Iterable[Training], jobs: int, ended: Ended) -> int | None:
    """Run trainings, ``jobs`` at a time, and call ``ended`` for each, in this thread.

    SIGINT and SIGTERM call :meth:`Trainer.stop`.

    Returns:
        The signal that stopped them, if one did.
    """
    with _signals_stop(trainer) as received, ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(trainer, training): training for training in trainings}
        try:
            for future in as_completed(futures):
                ended(futures[future], future.exception())
        except BaseException:  # of ended: the pool would train all that is left before anyone hears of it
            trainer.stop()
            raise
    return received[0] if received else None


@contextmanager
def _signals_stop(trainer: Trainer) -> Iterator[list[int]]:
    """Stop trainings at SIGINT and SIGTERM within a block; the list collects the signals."""
    received: list[int] = []

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        trainer.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
