"""The seeds of a run, taken together: means with their spread, and differences with an interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import NamedTuple

from .plan import Comparison, Run, Training
from .results import Result

Results = Mapping[Training, Result]

# 97.5 % quantiles of Student's t for 1, 2, ... 30 degrees of freedom; beyond, the last one, which is a little too wide.
T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


class Spread(NamedTuple):
    """A mean over seeds, with the standard deviation of a sample (over n - 1), None for one value."""

    mean: float
    deviation: float | None


class Difference(NamedTuple):
    """A mean of paired differences, with half of its 95 % t-interval, None for one pair."""

    mean: float
    seeds: int
    half_width: float | None


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of at least one value."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None)


def paired_difference(values: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    r"""The mean of ``values - others`` over the seeds that both have, None without one.

    With differences :math:`d_i` of n seeds that are normally distributed, the mean is with a probability of 95 % in

    .. math:: \bar d \pm t_{0.975,\,n-1} \, s_d / \sqrt n
    """
    seeds = sorted(values.keys() & others.keys())
    if not seeds:
        return None
    mean, deviation = spread([values[seed] - others[seed] for seed in seeds])
    if deviation is None:
        return Difference(mean, 1, None)
    quantile = T_QUANTILES[min(len(seeds) - 1, len(T_QUANTILES)) - 1]
    return Difference(mean, len(seeds), quantile * deviation / sqrt(len(seeds)))


@dataclass(frozen=True)
class Summary:
    """A run and its results so far, by seed."""

    run: Run
    results: dict[int, Result]

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
