"""The seeds of a run, taken together."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from .plan import Comparison, Run, Training
from .results import Result
from .statistics import Spread, spread

Results = Mapping[Training, Result]


@dataclass(frozen=True)
class Summary:
    """A run and those of its results that are there."""

    run: Run
    results: dict[int, Result]
    """Result by seed."""

    def accuracies(self) -> dict[int, float]:
        """The accuracy after the last epoch by seed, in per cent."""
        return {seed: result.numbers['accuracy'] for seed, result in self.results.items()}

    def accuracy(self) -> Spread | None:
        """Mean and deviation of these, None where there is no result."""
        return spread(list(self.accuracies().values())) if self.results else None

    def values(self, key: str) -> list[float]:
        """A number of each seed that has it; ``'size'`` is that of the compact file, and without masks density is 1."""
        without = {'density': 1.0}.get(key)
        values = [result.size if key == 'size' else result.numbers[key] for result in self.results.values()]
        return [value for value in (without if value is None else value for value in values) if value is not None]

    def mean(self, key: str) -> float | None:
        """The mean of these, None where no seed has one."""
        return fmean(values) if (values := self.values(key)) else None

    def curve(self) -> tuple[list[int], list[float]]:
        """The mean accuracy after each epoch that all seeds measured."""
        curves = [dict(zip(*result.curve, strict=True)) for result in self.results.values()]
        epochs = sorted(set.intersection(*map(set, curves))) if curves else []
        return epochs, [fmean(curve[epoch] for curve in curves) for epoch in epochs]


def summarize(comparison: Comparison, results: Results) -> list[Summary]:
    """One summary for each run, in the order of the file."""
    return [Summary(run, {t.seed: results[t] for t in run.trainings() if t in results}) for run in comparison.runs]
