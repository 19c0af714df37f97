"""What several seeds say: a mean with its spread, and a difference with an interval."""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import NamedTuple

# 97.5 % quantiles of Student's t for 1, 2, ... 30 degrees of freedom; beyond, the last one, which is a little too wide.
T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


class Spread(NamedTuple):
    """A mean over seeds."""

    mean: float
    deviation: float | None
    """The standard deviation of a sample (over n - 1), None for one value."""


class Difference(NamedTuple):
    """The mean of paired differences."""

    mean: float
    seeds: int
    half_width: float | None
    """Half of the 95 % t-interval of the mean, None for one pair."""


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of at least one value."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None)


def paired_difference(values: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    r"""How much larger the values are than the others, seed by seed, over the seeds that both have; None without one.

    With the differences :math:`d_i` of n seeds, their mean is between

    .. math:: \bar d \pm t_{0.975,\,n-1} \, s_d / \sqrt n

    with a probability of 95 %, if they are normally distributed.
    """
    seeds = sorted(values.keys() & others.keys())
    if not seeds:
        return None
    mean, deviation = spread([values[seed] - others[seed] for seed in seeds])
    if deviation is None:
        return Difference(mean, 1, None)
    quantile = T_QUANTILES[min(len(seeds) - 1, len(T_QUANTILES)) - 1]
    return Difference(mean, len(seeds), quantile * deviation / sqrt(len(seeds)))
