"""Messages and tables while trainings end."""

from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from ..files import write_atomically
from ..report.amounts import clock
from .plan import TABLE, TABLE_CSV, Comparison, Training
from .results import Result, read_result
from .tables import to_csv, to_markdown
from .training import LOG, TrainingStopped


class Progress:
    """The results and failures so far of a comparison; its tables are written anew after each training.

    Args:
        comparison: its trainings are watched; results that are there are read at once.
        folder: of the tables.
        jobs: trainings at a time.
        tell: called with a line for each training that ends.

    Raises:
        ValueError: a result cannot be read, or is of other settings; no table has been touched.
    """

    def __init__(self, comparison: Comparison, folder: Path, jobs: int, tell: Callable[[str], None]) -> None:
        self.comparison, self.folder, self.jobs, self.tell = comparison, folder, jobs, tell
        self.results: dict[Training, Result] = {}
        self.failures: dict[Training, str] = {}
        self._read_new(strict=True)

    def waiting(self) -> list[Training]:
        """The trainings that have neither a result nor failed."""
        ended = self.results.keys() | self.failures.keys()
        return [training for training in self.comparison.trainings() if training not in ended]

    def ended(self, training: Training, error: BaseException | None) -> None:
        """Note a training that has ended, by an error or with a result."""
        self._read_new()
        if isinstance(error, TrainingStopped) and training not in self.results:
            self.tell(f'{training.title}: interrupted; the same command goes on with it')
            return
        if training not in self.results:
            self.failures.setdefault(training, f'{error or "it left no result"} (log: {training.folder / LOG})')
        done, total = len(self.results), len(self.comparison.trainings())
        if training in self.results:
            numbers = self.results[training].numbers
            what = f'{numbers["accuracy"]:.2f} % in {clock(numbers["seconds"] or 0)}'
        else:
            what = f'failed: {self.failures[training]}'
        seconds = self.seconds_left()
        left = f', about {clock(seconds)} left' if seconds else ''
        self.tell(f'{training.title}: {what}; {done} of {total} done{left}')
        self.write_tables()

    def seconds_left(self) -> float:
        """Time for the waiting trainings, from the mean of their run, or else of all; 0 if none waits or has ended."""
        waiting, seconds = self.waiting(), {t: result.numbers['seconds'] or 0 for t, result in self.results.items()}
        if not waiting or not seconds:
            return 0.0
        alike = [[s for t, s in seconds.items() if t.run is one.run] or list(seconds.values()) for one in waiting]
        return sum(map(fmean, alike)) / min(self.jobs, len(waiting))

    def write_tables(self) -> None:
        """Write the tables of all results so far."""
        self._read_new()
        write_atomically(to_markdown(self.comparison, self.results).encode(), self.folder / TABLE)
        write_atomically(to_csv(self.comparison, self.results).encode(), self.folder / TABLE_CSV)

    def _read_new(self, strict: bool = False) -> None:
        """Read new results, also of other commands in the same folder."""
        for training in self.waiting():
            try:
                if result := read_result(training):
                    self.results[training] = result
            except ValueError as error:
                if strict:
                    raise
                self.failures[training] = str(error)
