"""Spread a density over tensors, for scope 'local'. Plain functions on shapes, in exact arithmetic."""

import heapq
import math
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction

from .schedules import kept_count

Shapes = Sequence[Sequence[int]]


def uniform(shapes: Shapes, density: Fraction, floor: int = 0) -> list[int]:
    """Count the weights that stay when every tensor has the same density; floors are the caller's."""
    return [kept_count(math.prod(shape), density) for shape in shapes]


def erk(shapes: Shapes, density: Fraction, floor: int = 0) -> list[int]:
    r"""Count the weights that stay in every tensor by Erdos-Renyi-Kernel.

    The density of a tensor of s weights is :math:`f a / s`, where a is the sum of its dimensions: :math:`a = in + out +
    k_h + k_w` for a convolution, ``in`` being the inputs of one filter, and :math:`a = in + out` for a linear layer.
    The factor f is the same for all. A tensor whose density would exceed 1 stays dense, one that would keep less than
    its floor keeps that, and f is solved so that the others meet the total.

    The counts are :math:`\lfloor f a \rfloor`, with f raised until the total is met (a divisor method): among those
    that f reaches at once, the lower position comes first. So no count rises when the density falls.

    Args:
        shapes: of the tensors, in the model's order.
        density: in (0, 1].
        floor: least number of weights in a tensor, or all it has; without effect where the total has no room for it.

    Returns:
        One count a tensor; together exactly :math:`N - \lfloor (1 - d) N \rfloor`.

    Source: Evci et al. 2020 (arXiv 1911.11134), Mocanu et al. 2018 (arXiv 1707.04780).
    """
    sizes, sums = [math.prod(shape) for shape in shapes], [sum(shape) for shape in shapes]
    total = kept_count(sum(sizes), density)
    least = [min(floor, size) for size in sizes]
    if sum(least) > total:
        least = [0] * len(sizes)

    def shares(factor: Fraction) -> list[Fraction]:
        return [min(max(factor * a, low), size) for a, low, size in zip(sums, least, sizes, strict=True)]

    # between two bends, factors at which a tensor leaves its floor or becomes dense, the sum of the shares is linear
    bends = sorted({Fraction(bound, a) for bounds in (least, sizes) for bound, a in zip(bounds, sums, strict=True)})
    factor = bends[bisect_right(bends, total, key=lambda bend: sum(shares(bend))) - 1]
    growing = sum(a for a, low, size in zip(sums, least, sizes, strict=True) if low <= factor * a < size)
    if growing:
        factor += Fraction(total - sum(shares(factor)), growing)
    counts = [math.floor(share) for share in shares(factor)]

    # the few that rounding down has left over
    waiting = [(Fraction(counts[i] + 1, sums[i]), i) for i in range(len(counts)) if counts[i] < sizes[i]]
    heapq.heapify(waiting)
    for _ in range(total - sum(counts)):
        _, i = heapq.heappop(waiting)
        counts[i] += 1
        if counts[i] < sizes[i]:
            heapq.heappush(waiting, (Fraction(counts[i] + 1, sums[i]), i))
    return counts


ALLOCATIONS = {'uniform': uniform, 'erk': erk}
"""Name -> function (shapes, density, floor) -> counts. Whoever leaves a tensor below the floor has it lifted later."""
