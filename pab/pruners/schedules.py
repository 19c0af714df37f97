"""Densities over the rounds of one pruning and over the shots of one training, and how many weights a density keeps.

Densities travel as exact fractions of the number the user wrote: in binary floating point ``(1 - 0.9) * 10`` is
0.99999..., so counting with floats would keep one weight too many.
"""

import math
from fractions import Fraction
from numbers import Real


def as_density(value: Real, owner: str, argument: str = 'density') -> Fraction:
    """Read a density in (0, 1] as the exact fraction that its decimal notation means: 0.3 is 3/10.

    Args:
        value: int, float, ``Decimal`` or ``Fraction``; else TypeError, or ValueError where it lies outside (0, 1].
        owner, argument: the class or function, and its argument, that the error names.
    """
    rule = f'{owner}: {argument} must lie in (0, 1], got {value!r}; it is the share of weights that is kept'
    if isinstance(value, bool | str):
        raise TypeError(rule)
    try:
        density = Fraction(str(value))
    except ValueError:
        not_finite = isinstance(value, Real) and not math.isfinite(value)
        raise (ValueError if not_finite else TypeError)(rule) from None
    if not 0 < density <= 1:
        raise ValueError(rule)
    return density


def kept_count(total: int, density: Fraction) -> int:
    r"""Count the weights that stay, :math:`N - \lfloor (1 - d) N \rfloor`; at least 1 for every ``total`` above 0."""
    return total - math.floor((1 - density) * total)


def exponential(density: Fraction, done: int, rounds: int) -> Fraction:
    r"""Compute :math:`d_t = d^{t/T}`: every round removes the same share of the kept weights (arXiv 2006.05467)."""
    if done == rounds:
        return density
    # 15 digits: the last bit of the power must not decide a count where the root is a short decimal (0.81 -> 0.9)
    return Fraction(f'{float(density) ** (done / rounds):.15g}')


def linear(density: Fraction, done: int, rounds: int) -> Fraction:
    r"""Compute :math:`d_t = 1 - (1 - d)\, t / T`: every round removes the same number of weights."""
    return 1 - (1 - density) * Fraction(done, rounds)


SCHEDULES = {'exponential': exponential, 'linear': linear}
