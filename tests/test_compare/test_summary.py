"""Means, deviations and intervals, by hand and by another way to the quantiles."""

from math import gamma, pi, sqrt

import numpy as np
import pytest

from pab.compare.summary import T_QUANTILES, paired_difference, spread


def test_spread_by_hand():
    assert spread([1.0, 3.0]) == (2.0, pytest.approx(sqrt(2)))  # ((-1)^2 + 1^2) / (2 - 1)
    assert spread([5.0]) == (5.0, None)


def test_paired_difference_by_hand():
    # seeds 0, 1 and 2 are common: differences 2, 1, 4, mean 7/3, variance (1/9 + 16/9 + 25/9) / 2 = 7/3, t = 4.303
    mean, seeds, half = paired_difference({0: 3.0, 1: 5.0, 2: 7.0}, {0: 1.0, 1: 4.0, 2: 3.0, 5: 9.0})
    assert (mean, seeds) == (pytest.approx(7 / 3), 3)
    assert half == pytest.approx(4.303 * sqrt(7 / 3) / sqrt(3))
    assert paired_difference({0: 3.0, 1: 4.0}, {1: 6.0}) == (-2.0, 1, None)
    assert paired_difference({0: 3.0}, {1: 6.0}) is None


def test_more_seeds_than_quantiles():
    values = {seed: float(seed % 2) for seed in range(100)}
    half = paired_difference(values, dict.fromkeys(range(100), 0.0)).half_width
    assert half == pytest.approx(2.042 * sqrt(25 / 99) / 10)


@pytest.mark.parametrize('degrees', [1, 2, 3, 7, 15, 30])
def test_quantiles_are_those_of_the_density(degrees):
    """Student's density, integrated from 0 to the quantile, is 0.475."""
    x = np.linspace(0, T_QUANTILES[degrees - 1], 20001)
    factor = gamma((degrees + 1) / 2) / (sqrt(degrees * pi) * gamma(degrees / 2))
    density = factor * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
    area = (density[1:] + density[:-1]).sum() / 2 * x[1]  # numpy 1 has no trapezoid
    assert area == pytest.approx(0.475, abs=3e-5)


def test_quantiles_fall():
    assert list(T_QUANTILES) == sorted(T_QUANTILES, reverse=True)
