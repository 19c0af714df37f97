"""Select the weights that stay: exact counts, ties and floors. Plain functions on flat tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

EQUAL = 2.0**-40
"""The share of a score up to which another equals it: what is equal on paper differs by the order of summation."""
SAMPLE_STEP = 251  # a prime: steps through channels and kernel positions alike


def lowest(scores: Tensor, alive: Tensor, drop: int, sizes: Sequence[int], floor: int = 0) -> tuple[Tensor, Tensor]:
    """Find the lowest scores among the living; of equal scores the higher index goes.

    With a floor, the best ``floor`` weights of every tensor are safe, and the others compete. Scores within ``EQUAL``
    of the highest one that goes are equal.

    Args:
        scores, alive: (N,) floating and bool, several tensors laid end to end; scores of the living are finite.
        drop: how many go, at most the number of living that are not safe.
        sizes: number of weights of each tensor, adding up to N.
        floor: a tensor with fewer living weights keeps them all.

    Returns:
        (drop,) indices of what goes, and the indices of what stays for its position alone; in no particular order.
    """
    if not floor:
        return _lowest(scores, alive, drop)
    competing = alive.clone()
    for score, living in zip(scores.split(list(sizes)), competing.split(list(sizes)), strict=True):
        best, _ = _lowest(-score.flip(0), living.flip(0), floor)  # backwards: of equal scores the lower index is safe
        living[len(living) - 1 - best] = False
    gone, tied = _lowest(scores, competing, drop)
    left = alive.index_fill(0, gone, False)
    ties = torch.zeros_like(alive).index_fill_(0, tied, True)
    parts = (part.split(list(sizes)) for part in (scores, alive, left, ties))
    for score, before, after, tie in zip(*parts, strict=True):
        if (removed := score[before & ~after]).numel():
            tie |= after & equal(score, removed.max())
    return gone, ties.nonzero().flatten()


def equal(scores: Tensor, limit: Tensor) -> Tensor:
    """Tell which scores are those of a limit but for noise of rounding."""
    return (scores - limit).abs() <= EQUAL * limit.abs()


def _lowest(scores: Tensor, alive: Tensor, drop: int) -> tuple[Tensor, Tensor]:
    candidates = _candidates(scores, alive, drop).flip(0)  # ties: the higher index goes first
    found, order = scores[candidates].sort(stable=True)
    if not 0 < drop < len(order):
        return candidates[order[:drop]], candidates[:0]
    limit = found[drop - 1]
    start = int(torch.searchsorted(found, limit - EQUAL * limit.abs()))
    end = int(torch.searchsorted(found, limit + EQUAL * limit.abs(), right=True))
    if found[start] != found[end - 1]:  # equal on paper, but not yet in the order of their positions
        order[start:end] = order[start:end].sort().values
    return candidates[order[:drop]], candidates[order[drop:end]]


def _candidates(scores: Tensor, alive: Tensor, drop: int) -> Tensor:
    """The ascending indices of at least ``drop`` living scores, all of the lowest and what equals them among them.

    A round removes a small share of many weights. A bound guessed from a sample spares sorting the others.
    """
    sample = scores[::SAMPLE_STEP][alive[::SAMPLE_STEP]]
    expected = drop / SAMPLE_STEP
    rank = int(expected + 5 * expected**0.5) + 5  # five standard deviations more than needed
    if rank < len(sample) // 2:
        bound = sample.kthvalue(rank).values
        candidates = ((scores <= bound + 2 * EQUAL * bound.abs()) & alive).nonzero().flatten()
        if int((scores[candidates] <= bound).count_nonzero()) >= drop:
            return candidates
    return alive.nonzero().flatten()
