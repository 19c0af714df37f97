"""Select the weights that stay: exact counts, ties and floors. Plain functions on flat tensors."""

from collections.abc import Sequence

from torch import Tensor

SAMPLE_STEP = 251  # a prime: steps through channels and kernel positions alike


def lowest(scores: Tensor, alive: Tensor, drop: int, sizes: Sequence[int], floor: int = 0) -> Tensor:
    """Find the lowest scores among the living; of equal scores the higher index goes.

    With a floor, the best ``floor`` weights of every tensor are safe, and the others compete.

    Args:
        scores, alive: (N,) floating and bool, several tensors laid end to end; scores of the living are finite.
        drop: how many go, at most the number of living less those that are safe.
        sizes: number of weights of each tensor, adding up to N.
        floor: a tensor with fewer living weights keeps them all.

    Returns:
        (drop,) indices, in no particular order.
    """
    if floor:
        alive = alive.clone()
        for score, living in zip(scores.split(list(sizes)), alive.split(list(sizes)), strict=True):
            best = _lowest(-score.flip(0), living.flip(0), floor)  # backwards: of equal scores the lower index is safe
            living[len(living) - 1 - best] = False
    return _lowest(scores, alive, drop)


def _lowest(scores: Tensor, alive: Tensor, drop: int) -> Tensor:
    candidates = _candidates(scores, alive, drop).flip(0)  # ties: the higher index goes first
    return candidates[scores[candidates].argsort(stable=True)[:drop]]


def _candidates(scores: Tensor, alive: Tensor, drop: int) -> Tensor:
    """The ascending indices of at least ``drop`` living scores, all of the lowest among them.

    A round removes a small share of many weights. A bound guessed from a sample spares sorting the others.
    """
    sample = scores[::SAMPLE_STEP][alive[::SAMPLE_STEP]]
    expected = drop / SAMPLE_STEP
    rank = int(expected + 5 * expected**0.5) + 5  # five standard deviations more than needed
    if rank < len(sample) // 2:
        candidates = ((scores <= sample.kthvalue(rank).values) & alive).nonzero().flatten()
        if len(candidates) >= drop:
            return candidates
    return alive.nonzero().flatten()
