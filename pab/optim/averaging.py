"""Averages of a network over the steps, for ``torch.optim.swa_utils.AveragedModel``."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_avg_fn

Average = Callable[[Tensor, Tensor, Tensor | int], Tensor]


def keep_signs(average: Average | None = None) -> Average:
    r"""Return an ``avg_fn`` that averages all but signs, what is pruned, and what is no floating tensor.

    A sign-trained weight is +a or -a for ever; its average over steps is another magnitude, which nobody drew. So an
    entry takes its newest value where its magnitude is that of the average, or where it is 0; every other entry is
    averaged. An ordinary weight is exactly 0, or minus its own average, by accident alone. Masks and counters are
    copied, so ``use_buffers=True`` works. Weights that have grown in a new place (Moves) would be averaged; begin to
    average when moves have ended::

        averaged = AveragedModel(net, avg_fn=keep_signs(get_ema_avg_fn(0.999)), use_buffers=True)

    Args:
        average: an ``avg_fn`` of torch, ``average(averaged, newest, num_averaged)``, all of one shape; by default that
            of ``get_ema_avg_fn()``; a TypeError for no function.
    """
    if not callable(average := get_ema_avg_fn() if average is None else average):
        raise TypeError(f'keep_signs: average must be a function, such as get_ema_avg_fn(0.99), got {average!r}')

    def keeping(averaged: Tensor, newest: Tensor, num_averaged: Tensor | int) -> Tensor:
        if not isinstance(newest, Tensor):
            raise TypeError(
                f'keep_signs: takes one tensor after another, got a {type(newest).__name__}; give it as avg_fn, '
                'not as multi_avg_fn'
            )
        if not newest.is_floating_point():
            return newest
        kept = (averaged.abs() == newest.abs()) | (newest == 0)
        return torch.where(kept, newest, average(averaged, newest, num_averaged))

    return keeping
