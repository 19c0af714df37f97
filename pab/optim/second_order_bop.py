"""Second-order Bop: Bop whose threshold is relative to the usual size of each weight's gradient."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..registry import OPTIMIZERS
from .flips import flip_, largest_below
from .sign_optimizer import SignOptimizer


def agree_relatively(signs: Tensor, grad: Tensor, average: Tensor, second: Tensor, *numbers: float) -> Tensor:
    """Average the gradient and its square; flip where sign(w) m / (scale sqrt(v) + eps) is larger than ``below``."""
    keep, rate, second_keep, second_rate, scale, eps, below = numbers
    average.mul_(keep).add_(grad * rate)
    second.mul_(second_keep).add_(grad * grad * second_rate)
    return signs.mul_(average).div_(second.sqrt().mul_(scale).add_(eps)).gt_(below)  # false for a NaN


@OPTIMIZERS.register_module()
class SecondOrderBop(SignOptimizer):
    r"""Flip the sign of a weight once its averaged gradient is large beside the usual size of that gradient.

    .. math:: m_t = (1-\gamma)\, m_{t-1} + \gamma\, g_t, \quad v_t = (1-\sigma)\, v_{t-1} + \sigma\, g_t^2, \quad
              m_0 = v_0 = 0; \\
              w_t = -w_{t-1} \text{ iff } |m_t| / (\sqrt{v_t} + \epsilon) \ge \tau \text{ and } m_t w_{t-1} > 0

    With ``bias_corrected``, :math:`m_t / (1 - \prod_{i \le t} (1-\gamma_i))` and
    :math:`v_t / (1 - \prod_{i \le t} (1-\sigma_i))` take the places of m and v, also where a schedule moves the rates.
    The threshold has no unit: the scale of the gradient does not matter. At equality a weight flips, as with
    :class:`~pab.optim.Bop`. A weight that is exactly 0 (pruned) never flips, nor does one whose average is NaN. The
    state is two floats for each weight, m and v, one more than Bop's.

    gamma and tau feel as in :class:`~pab.optim.Bop`, but tau is a ratio: near 1 only a steady gradient flips a weight,
    near 0 noise does. With too high a sigma v follows the last batches, and one small gradient lets a weight flip. With
    too low a sigma v starts near 0, where noise flips weights, and later remembers gradients long past.

    Args:
        params: floating tensors of any shape, or dicts of them (parameter groups).
        adaptivity_rate: gamma, the share of the newest gradient in m, per step; in (0, 1), else ValueError.
        threshold: tau; >= 0, else ValueError. Of gradients that are noise alone, m / sqrt(v) is about sqrt(gamma / 2).
        second_rate: sigma, the share of the newest squared gradient in v, per step; in (0, 1), else ValueError.
        eps: added to the root of v; >= 0, else ValueError.
        bias_corrected: whether m and v are divided by the share that gradients have in them.
        flips_per_weight: also count the flips of every single weight (int32, as large as the weights).
        lr: a factor on adaptivity_rate, for schedulers that move a learning rate; >= 0, else ValueError.

    Source: Suarez-Ramirez et al. 2021, "A Bop and Beyond" (arXiv 2104.05124), where it is called Bop2ndOrder. The
    defaults of gamma, tau and sigma are those of the authors' commands for section 5.1, eps that of their code.
    """

    ranges = dict.fromkeys(('adaptivity_rate', 'second_rate'), 'lie in (0, 1)')
    ranges |= dict.fromkeys(('threshold', 'eps'), 'be >= 0')

    def __init__(
        self,
        params: Iterable,
        adaptivity_rate: float = 1e-7,
        threshold: float = 1e-6,
        second_rate: float = 1e-3,
        eps: float = 1e-10,
        bias_corrected: bool = False,
        flips_per_weight: bool = False,
        lr: float = 1.0,
    ) -> None:
        settings = dict(adaptivity_rate=adaptivity_rate, threshold=threshold, second_rate=second_rate, eps=eps)
        flags = dict(bias_corrected=bias_corrected, flips_per_weight=flips_per_weight)
        super().__init__(params, {**settings, **flags, 'lr': lr})

    def start(self, param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state = super().start(param, group)
        state['second_moment'] = torch.zeros_like(state['moving_average'])
        for name in ('start_in_average', 'start_in_second') if group['bias_corrected'] else ():
            state[name] = torch.ones((), dtype=torch.float64, device=param.device)  # the share of the 0 of the start
        return state

    def flip(self, param: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        rate, second_rate, scale, eps = group['adaptivity_rate'], group['second_rate'], 1.0, group['eps']
        averages = [state['moving_average'], state['second_moment']]
        dtype = averages[0].dtype
        if group['bias_corrected']:
            share = 1 - state['start_in_average'].mul_(1 - rate)
            second_share = 1 - state['start_in_second'].mul_(1 - second_rate)
            # m / share / (sqrt(v / second_share) + eps), so that one division for each weight is enough
            scale, eps = (share / second_share.sqrt()).to(dtype), (share * eps).to(dtype)
        numbers = 1 - rate, rate, 1 - second_rate, second_rate, scale, eps, largest_below(group['threshold'], dtype)
        return flip_(agree_relatively, param, param.grad, averages, state.get('weight_flips'), numbers)
