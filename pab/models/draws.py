"""Random numbers that are fixed for ever by a seed and a name.

A stored network keeps its seed instead of its magnitudes, so a seed must give the same bits on every machine and with
every later library. Two things never change: the integers of numpy's legacy ``RandomState`` (the Mersenne Twister,
frozen by numpy), and + - * / sqrt in float64, which IEEE 754 rounds correctly everywhere. ``np.log`` and the C
library's ``log``, which ``RandomState.standard_normal`` uses, are avoided: their last bit depends on the machine.
"""

import hashlib
import math

import numpy as np

LN2 = 0.6931471805599453
CHUNK = 1 << 15  # pairs drawn at a time: the temporaries stay in the cache; the numbers don't depend on it


def stream(seed: int | str, name: str) -> np.random.RandomState:
    """The generator of the tensor ``name``; only ``seed`` and ``name`` decide what it draws.

    ``seed`` is an int >= 0 of any size, or a text with one that keeps purposes apart, such as 'prune/7'.
    """
    words = np.frombuffer(hashlib.sha256(f'{seed}/{name}'.encode()).digest(), dtype='<u4')
    return np.random.RandomState(words.astype(np.uint32))


def uniform(rng: np.random.RandomState, count: int) -> np.ndarray:
    """``count`` float64 numbers, uniform in [-1, 1)."""
    return 2.0 * rng.random_sample(count) - 1.0


def signs(rng: np.random.RandomState, count: int) -> np.ndarray:
    """``count`` float64 numbers, each -1 or 1 with probability one half."""
    return np.where(rng.random_sample(count) < 0.5, -1.0, 1.0)


def normal(rng: np.random.RandomState, count: int) -> np.ndarray:
    """``count`` float64 numbers from N(0, 1), by Marsaglia's polar method (SIAM Review 6, 1964)."""
    parts, missing = [], count
    while missing > 0:
        # 78.5 % of the points lie in the circle and give two numbers each
        points = 2.0 * rng.random_sample((min(CHUNK, missing * 2 // 3 + 8), 2)) - 1.0
        x, y = points[:, 0], points[:, 1]
        square = x * x + y * y
        inside = (square > 0) & (square < 1)
        points, square = points[inside], square[inside]
        parts.append((points * np.sqrt(-2.0 * log(square) / square)[:, None]).ravel())
        missing -= parts[-1].size
    return np.concatenate([np.empty(0), *parts])[:count]


def laplace(rng: np.random.RandomState, count: int) -> np.ndarray:
    """``count`` float64 numbers from the Laplace distribution of scale 1 (variance 2)."""
    magnitudes = -log(1.0 - rng.random_sample(count))  # 1 - u lies in (0, 1], so the logarithm is finite
    return magnitudes * signs(rng, count)


def log(x: np.ndarray) -> np.ndarray:
    r"""Natural logarithm of positive float64 numbers, to about 2e-16 relative, the same bits on every machine.

    .. math:: \log(f 2^e) = e \log 2 + 2 \operatorname{artanh}\frac{f - 1}{f + 1}, \quad f \in [\sqrt{1/2}, \sqrt 2)
    """
    fraction, exponent = np.frexp(x)  # fraction in [0.5, 1)
    low = fraction < math.sqrt(0.5)
    fraction = np.where(low, 2.0 * fraction, fraction)
    s = (fraction - 1.0) / (fraction + 1.0)  # |s| < 0.172, so the first term left out, s^24 / 25, is below 1e-19
    square = s * s
    series = np.full_like(s, 1.0 / 23)
    for k in range(21, 0, -2):
        series = series * square + 1.0 / k
    return (exponent - low) * LN2 + 2.0 * s * series
