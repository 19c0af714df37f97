"""Bop, the optimizer that only flips signs."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from ..checks import known_choice
from ..registry import OPTIMIZERS
from .flips import flip_, largest_below
from .sign_optimizer import SignOptimizer


def agree(signs: Tensor, grad: Tensor, average: Tensor, keep: float, rate: float, below: float) -> Tensor:
    """Bop's rule: average the gradient; a weight flips where the average has its sign and is larger than ``below``."""
    average.mul_(keep).add_(grad * rate)
    return signs.mul_(average).gt_(below)  # false for a NaN, and for a weight of 0


@OPTIMIZERS.register_module()
class Bop(SignOptimizer):
    r"""Flip the sign of a weight once its averaged gradient agrees with it; magnitudes never change.

    .. math:: m_t = (1-\gamma)\, m_{t-1} + \gamma\, g_t, \; m_0 = 0; \quad
              w_t = -w_{t-1} \text{ iff } |m_t| \ge \tau \text{ and } m_t w_{t-1} > 0

    A weight that is exactly 0 (pruned) never flips, nor does one whose average is NaN. There is no learning rate and no
    latent weight: the state is the average ``m`` and counts of flips.

    With too high an adaptivity rate the last few batches decide: the same weights flip back and forth, and the loss
    stays noisy. With too low a rate weights flip late, on gradients that are out of date. With too low a threshold
    noise flips weights to the end; with too high a threshold signs stay as they were drawn.

    Args:
        params: floating tensors of any shape, or dicts of them (parameter groups).
        adaptivity_rate: gamma, the share of the newest gradient in the average, per step; in (0, 1), else ValueError.
        threshold: tau, in units of the gradient; >= 0, else ValueError.
        first_step: 'zero' as above; 'gradient' starts with :math:`m_1 = (1+\gamma) g_1`, as the reference's code does:
            about half of all weights flip then, and that gradient dominates the average for about 1/gamma steps.
        flips_per_weight: also count the flips of every single weight (int32, as large as the weights), not only those
            of each tensor; the FlipFreq pruner reads them.
        lr: a factor on adaptivity_rate, for schedulers that move a learning rate; >= 0, else ValueError.

    Source: Helwegen et al. 2019, "Latent Weights Do Not Exist" (arXiv 1906.02107), algorithm 1; the rule at equality
    (:math:`|m| = \tau` flips) is the reference's.
    """

    ranges = {'adaptivity_rate': 'lie in (0, 1)', 'threshold': 'be >= 0'}

    def __init__(
        self,
        params: Iterable,
        adaptivity_rate: float = 1e-3,
        threshold: float = 1e-6,
        first_step: str = 'zero',
        flips_per_weight: bool = False,
        lr: float = 1.0,
    ) -> None:
        settings = dict(adaptivity_rate=adaptivity_rate, threshold=threshold, first_step=first_step)
        super().__init__(params, {**settings, 'flips_per_weight': flips_per_weight, 'lr': lr})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        known_choice('Bop', 'first_step', {**self.defaults, **param_group}['first_step'], ('zero', 'gradient'))
        super().add_param_group(param_group)

    def start(self, param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state = super().start(param, group)
        if group['first_step'] == 'gradient':
            # The step to come then gives (1 - gamma) / (1 - gamma) * g + gamma * g = (1 + gamma) g.
            average = state['moving_average']
            average.copy_(param.grad.to(average.dtype) / (1 - group['adaptivity_rate']))
        return state

    def flip(self, param: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        rate, average = group['adaptivity_rate'], state['moving_average']
        numbers = 1 - rate, rate, largest_below(group['threshold'], average.dtype)
        return flip_(agree, param, param.grad, [average], state.get('weight_flips'), numbers)
