"""TopFlips, a sign optimizer whose number of flips is set and not its threshold."""

from collections.abc import Iterable
from math import ceil
from typing import Any

import torch
from torch import Tensor

from ..registry import OPTIMIZERS
from .flips import flip_, laid_out
from .sign_optimizer import SignOptimizer

RANKED = 1 << 17  # entries; to rank all of a tensor of many more would take longer than all else


def strongest(signs: Tensor, grad: Tensor, average: Tensor, keep: float, rate: float, last: Tensor) -> Tensor:
    """Average the gradient; a weight flips, and its average starts at 0, where the evidence reaches ``last``."""
    flips = evidence(signs, grad, average, keep, rate).ge_(last)
    average.mul_(1 - flips)
    return flips


def evidence(signs: Tensor, grad: Tensor, average: Tensor, keep: float, rate: float) -> Tensor:
    """Average the gradient, in place; return what speaks for a flip of each weight, in the place of its sign."""
    return signs.mul_(average.mul_(keep).add_(grad * rate))


@OPTIMIZERS.register_module()
class TopFlips(SignOptimizer):
    r"""Flip a set share of each tensor's signs: those against which the averaged gradient speaks most.

    .. math:: m_t = (1-\gamma)\, m_{t-1} + \gamma\, g_t, \; m_0 = 0; \quad
              w_t = -w_{t-1},\; m_t = 0 \text{ at the } k_t \text{ largest } m_t \operatorname{sign}(w_{t-1}) > 0

    Of a tensor with n nonzero weights, :math:`k_t` is the whole part of :math:`\sum_{i \le t} n r_i` less the flips due
    before, so that a share r too small for one flip a step gives one every few steps. The share is the step size of the
    signs: a param scheduler that brings it from its start to 0 (cosine) lets training settle. Only the order of the
    averages in their tensor counts, so the scale of the gradient and of the loss does not. A weight that has flipped
    starts with no evidence, so it needs new evidence to flip back.

    With too high a share right signs flip too, and accuracy swings from epoch to epoch; with too low a share the signs
    move too slowly to learn within the training. Too high an adaptivity rate ranks weights by the noise of the last
    batches, too low a rate by gradients from before the latest flips.

    A weight that is exactly 0 (pruned) never flips. Equal evidence at the last place flips together. Of a tensor of
    262,144 entries or more, an evenly spread part is ranked and says what evidence flips. There is no latent weight:
    the state is the average ``m``, one number for each weight, and counts for each tensor.

    Args:
        params: floating tensors of any shape, or dicts of them (parameter groups).
        flip_share: r, the share of a tensor's nonzero weights to flip in a step; in [0, 1], else ValueError.
        adaptivity_rate: gamma, the share of the newest gradient in the average, per step; in (0, 1), else ValueError.
        flips_per_weight: also count the flips of every single weight (int32, as large as the weights).
        lr: a factor on flip_share, for schedulers that move a learning rate; >= 0, else ValueError.

    Source: ours.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([0.5, 0.5, 0.5, -0.5]))
        >>> top = TopFlips([w], flip_share=0.25, adaptivity_rate=0.5)  # one of four weights a step
        >>> w.grad = torch.tensor([0.2, 0.4, -0.8, 0.8])  # the first two would rather be negative, the second more so
        >>> top.step()
        >>> w.tolist(), int(top.last_flips)
        ([0.5, -0.5, 0.5, -0.5], 1)
    """

    scaled_by_lr = 'flip_share'
    ranges = {'flip_share': 'lie in [0, 1]', 'adaptivity_rate': 'lie in (0, 1)'}

    def __init__(
        self,
        params: Iterable,
        flip_share: float = 3e-3,
        adaptivity_rate: float = 1e-2,
        flips_per_weight: bool = False,
        lr: float = 1.0,
    ) -> None:
        defaults = dict(flip_share=flip_share, adaptivity_rate=adaptivity_rate, flips_per_weight=flips_per_weight)
        super().__init__(params, {**defaults, 'lr': lr})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters; ValueError for a sharded one (a DTensor), whose entries no process can rank."""
        super().add_param_group(param_group)
        if any(hasattr(param, 'placements') for param in self.param_groups[-1]['params']):
            raise ValueError(
                f'{type(self).__name__}: ranks all weights of a tensor, and a process has a part of a sharded one; '
                'take Bop or SecondOrderBop under fully_shard'
            )

    def start(self, param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """The average before the first step, and the part of a flip that is due."""
        return super().start(param, group) | {'due': torch.zeros((), dtype=torch.float64, device=param.device)}

    def flip(self, param: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        """Find the weakest evidence that flips, then average and flip in one pass."""
        average, due, share, rate = state['moving_average'], state['due'], group['flip_share'], group['adaptivity_rate']
        signs, grad, means = (_spread(t).to(average.dtype) for t in (param, laid_out(param.grad, param), average))
        signs = signs.sign()
        kept = signs.abs()  # its sum takes a fifth of the time of counting what is not 0
        ranked = evidence(signs, grad, means.clone(), 1 - rate, rate)
        due.add_(kept.sum(dtype=due.dtype) * share)
        # How many are due only the device knows; no more than these, with the one carried over.
        ranked = ranked.topk(min(len(ranked), ceil(len(ranked) * share) + 1)).values
        last = ranked.gather(0, (due.long() - 1).clamp_(0, len(ranked) - 1)[None])[0]
        last = torch.where(due >= 1, last.clamp_(min=torch.finfo(last.dtype).tiny), torch.inf)
        due.frac_()
        return flip_(strongest, param, param.grad, [average], state.get('weight_flips'), (1 - rate, rate, last))


def _spread(tensor: Tensor) -> Tensor:
    """All entries, in the order of memory; of a large tensor ``RANKED`` (within a factor of 2), evenly spread."""
    # an odd step does not keep time with the numbers of channels
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    return tensor.detach().permute(order).reshape(-1)[:: tensor.numel() // RANKED | 1]
