"""TopFlips, a sign optimizer whose number of flips is set and not its threshold."""

from collections.abc import Callable, Iterable
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..registry import OPTIMIZERS

RANKED = 1 << 17


@OPTIMIZERS.register_module()
class TopFlips(Optimizer):
    r"""Flip a set share of each tensor's signs: those against which the averaged gradient speaks most.

    .. math:: m_t = (1-\gamma)\, m_{t-1} + \gamma\, g_t, \; m_0 = 0; \quad
              w_t = -w_{t-1},\; m_t = 0 \text{ at the } k_t \text{ largest } m_t \operatorname{sign}(w_{t-1}) > 0

    Of a tensor with n nonzero weights, :math:`k_t` is the whole part of :math:`\sum_{i \le t} n r_i` less the flips
    due before, so that a share r too small for one flip a step gives one every few steps. The share is the step size
    of the signs: a param scheduler that brings it from its start to 0 (cosine) lets training settle. Only the order
    of the averages in their tensor counts, so the scale of the gradient and of the loss does not. A weight that has
    flipped starts with no evidence, so it needs new evidence to flip back.

    A weight that is exactly 0 (pruned) never flips. Equal evidence at the last place flips together. There is no latent
    weight: the state is the average ``m``, one number for each weight, and counts for each tensor.

    Args:
        params: floating tensors of any shape, or dicts of them (parameter groups).
        flip_share: r, the share of a tensor's nonzero weights to flip in a step; in [0, 1], else ValueError.
        adaptivity_rate: gamma, the share of the newest gradient in the average, per step; in (0, 1), else ValueError.
        flips_per_weight: also count the flips of every single weight (int32, as large as the weights).

    Source: ours.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([0.5, 0.5, 0.5, -0.5]))
        >>> top = TopFlips([w], flip_share=0.25, adaptivity_rate=0.5)  # one of four weights a step
        >>> w.grad = torch.tensor([0.2, 0.4, -0.8, 0.8])  # the first two would rather be negative, the second more so
        >>> top.step()
        >>> w.tolist(), int(top.last_flips)
        ([0.5, -0.5, 0.5, -0.5], 1)
    """

    def __init__(
        self,
        params: Iterable,
        flip_share: float = 3e-3,
        adaptivity_rate: float = 1e-2,
        flips_per_weight: bool = False,
    ) -> None:
        self.last_flips: Tensor | None = None
        """How many weights the last step flipped: int64, no dimensions, on the device (reading it waits for it)."""
        defaults = dict(flip_share=flip_share, adaptivity_rate=adaptivity_rate, flips_per_weight=flips_per_weight)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; the settings are checked as in the constructor."""
        settings = {**self.defaults, **param_group}
        if not 0 <= settings['flip_share'] <= 1:
            raise ValueError(f'TopFlips: flip_share must lie in [0, 1], got {settings["flip_share"]!r}')
        if not 0 < settings['adaptivity_rate'] < 1:
            raise ValueError(f'TopFlips: adaptivity_rate must lie in (0, 1), got {settings["adaptivity_rate"]!r}')
        super().add_param_group(param_group)
        for param in self.param_groups[-1]['params']:
            if not param.is_floating_point():
                raise TypeError(f'TopFlips: parameters must be floating tensors, got dtype {param.dtype}')

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Average the gradients and flip, without waiting for the device; a parameter without a gradient stays.

        Args:
            closure: computes the loss again and returns it.

        Returns:
            The closure's loss, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        counts = [self._flip(p, group) for group in self.param_groups for p in group['params'] if p.grad is not None]
        self.last_flips = torch.stack([count.to(counts[0].device) for count in counts]).sum() if counts else None
        return loss

    def _flip(self, weight: Tensor, group: dict[str, Any]) -> Tensor:
        state, share = self.state[weight], group['flip_share']
        if not state:
            state['moving_average'] = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
            # float32 would lose a share of one flip beside a large count
            state['due'] = torch.zeros((), dtype=torch.float64, device=weight.device)
            state['tensor_flips'] = torch.zeros((), dtype=torch.int64, device=weight.device)
        if group['flips_per_weight'] and 'weight_flips' not in state:
            state['weight_flips'] = torch.zeros_like(weight, dtype=torch.int32)
        average, due = state['moving_average'], state['due']
        average.lerp_(weight.grad.to(average.dtype), group['adaptivity_rate'])
        sign = weight.sign()
        evidence = average * sign
        # an odd step does not keep time with channel counts; fresh tensors have no gaps, so all their entries are seen
        every = weight.numel() // RANKED | 1
        sample, kept = (t.as_strided((t.numel(),), (1,))[::every] for t in (evidence, sign))
        due.add_((kept != 0).sum() * share)
        # How many are due only the device knows; no more than these, with the one carried over.
        ranked = sample.topk(min(len(sample), ceil(len(sample) * share) + 1)).values
        last = ranked.gather(0, (due.long() - 1).clamp_(0, len(ranked) - 1)[None])  # the weakest evidence that flips
        last = torch.where(due >= 1, last.clamp_(min=torch.finfo(last.dtype).tiny), torch.inf)
        flips = evidence >= last
        due.frac_()
        weight.mul_(1 - 2 * flips.to(weight.dtype))
        average.masked_fill_(flips, 0)
        if group['flips_per_weight']:
            state['weight_flips'].add_(flips)
        count = flips.sum()
        state['tensor_flips'].add_(count)
        return count

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state in the types it was saved in; torch's own loader would cast it to the parameter's type."""
        super().load_state_dict(state_dict)
        saved_ids = [i for group in state_dict['param_groups'] for i in group['params']]
        params = [p for group in self.param_groups for p in group['params']]
        for saved_id, param in zip(saved_ids, params, strict=True):
            for key, value in state_dict['state'].get(saved_id, {}).items():
                self.state[param][key] = value.to(device=param.device, copy=True)
