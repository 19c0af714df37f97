"""Bop, the optimizer that only flips signs."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..registry import OPTIMIZERS
from . import flips

FIRST_STEPS = ('zero', 'gradient')


@OPTIMIZERS.register_module()
class Bop(Optimizer):
    r"""Flip the sign of a weight once its averaged gradient agrees with it; magnitudes never change.

    .. math:: m_t = (1-\gamma)\, m_{t-1} + \gamma\, g_t, \; m_0 = 0; \quad
              w_t = -w_{t-1} \text{ iff } |m_t| \ge \tau \text{ and } m_t w_{t-1} > 0

    A weight that is exactly 0 (pruned) never flips. There is no learning rate and no latent weight: the state is the
    average ``m`` and a count of flips.

    Args:
        params: floating tensors of any shape, or dicts of them (parameter groups).
        adaptivity_rate: gamma, the share of the newest gradient in the average, per step; in (0, 1), else ValueError.
        threshold: tau, in units of the gradient; >= 0, else ValueError.
        first_step: 'zero' as above; 'gradient' starts with :math:`m_1 = (1+\gamma) g_1`, as the reference's code does:
            about half of all weights flip in that step and its gradient then dominates the average for about 1/gamma
            steps.
        flips_per_weight: keep the number of flips of every single weight (int32, as large as the weights) and not only
            their sum per tensor; the FlipFreq pruner reads it.
        foreach: treat all tensors in one call an operation (True), one after the other in blocks (False), or in the
            fastest way (None), which for large tensors is one compiled loop (see
            :func:`pab.compiled.use_compiled`). The numbers are the same.

    Source: Helwegen et al. 2019, "Latent Weights Do Not Exist" (arXiv 1906.02107), algorithm 1; the rule at equality
    (:math:`|m| = \tau` flips) is the reference's.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([0.5, -0.5]))
        >>> bop = Bop([w], adaptivity_rate=0.5, threshold=0.1)
        >>> w.grad = torch.tensor([0.4, 0.4])  # m = 0.2: it agrees in sign with the first weight only
        >>> bop.step()
        >>> w.tolist(), int(bop.last_flips)
        ([-0.5, -0.5], 1)
    """

    def __init__(
        self,
        params: Iterable,
        adaptivity_rate: float = 1e-3,
        threshold: float = 1e-6,
        first_step: str = 'zero',
        flips_per_weight: bool = False,
        foreach: bool | None = None,
    ) -> None:
        defaults = dict(
            adaptivity_rate=adaptivity_rate,
            threshold=threshold,
            first_step=first_step,
            flips_per_weight=flips_per_weight,
            foreach=foreach,
        )
        self.last_flips: Tensor | None = None
        """How many weights the last step flipped: int64, no dimensions, on the device (reading it waits for it)."""
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; the settings are checked as in the constructor."""
        settings = {**self.defaults, **param_group}
        rate, threshold, first_step = (settings[key] for key in ('adaptivity_rate', 'threshold', 'first_step'))
        if not 0 < rate < 1:
            raise ValueError(
                f'Bop: adaptivity_rate must lie in (0, 1), got {rate!r}; it is the share of the newest gradient in the '
                'average'
            )
        if not threshold >= 0:
            raise ValueError(f'Bop: threshold must be >= 0, got {threshold!r}; 0 lets every agreement in sign flip')
        if first_step not in FIRST_STEPS:
            raise ValueError(f'Bop: first_step must be one of {FIRST_STEPS}, got {first_step!r}')
        super().add_param_group(param_group)
        for param in self.param_groups[-1]['params']:
            if not param.is_floating_point():
                raise TypeError(f'Bop: parameters must be floating tensors, got dtype {param.dtype}')

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Average the gradients, flip what agrees, count the flips on the device.

        A parameter without a gradient is left as it is, its average too.

        Args:
            closure: computes the loss again and returns it.

        Returns:
            The closure's loss, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        counts = []
        for group in self.param_groups:
            params = [p for p in group['params'] if p.grad is not None]
            if params:
                counts.extend(self._step_group(group, params))
        self.last_flips = torch.stack([c.to(counts[0].device) for c in counts]).sum() if counts else None
        return loss

    def _step_group(self, group: dict[str, Any], params: list[Tensor]) -> list[Tensor]:
        entries, totals = [], []
        for param in params:
            if param.grad.is_sparse:
                raise RuntimeError('Bop: sparse gradients are not supported; use a dense layer')
            if not self.state[param]:
                self._start(param, group)
            state = self.state[param]
            state['moving_average'] = flips.like(state['moving_average'], param)
            if group['flips_per_weight']:
                state['flips'] = flips.like(state['flips'], param)
            per_weight = state['flips'] if group['flips_per_weight'] else None
            entries.append(flips.aligned(param, state['moving_average'], param.grad, per_weight))
            totals.append(state['flips'])
        rule = flips.Rule(group['adaptivity_rate'], group['threshold'])
        counts = flips.step_(entries, rule, group['foreach'])
        if not group['flips_per_weight']:
            torch._foreach_add_(totals, counts)
        return counts

    def _start(self, param: Tensor, group: dict[str, Any]) -> None:
        # At gamma = 1e-3 an average in half precision would never move.
        dtype = torch.promote_types(param.dtype, torch.float32)
        rate = group['adaptivity_rate']
        average = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
        if group['first_step'] == 'gradient':
            # The step to come then gives (1 - gamma) / (1 - gamma) * g + gamma * g = (1 + gamma) g.
            average.copy_(param.grad.to(dtype) / (1 - rate))
        per_weight = torch.zeros_like(param, dtype=torch.int32, memory_format=torch.preserve_format)
        total = torch.zeros((), dtype=torch.int64, device=param.device)
        self.state[param] = dict(moving_average=average, flips=per_weight if group['flips_per_weight'] else total)

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the averages and flip counts in the types they were saved in.

        torch's own loader casts every state tensor to its parameter's type, which would turn counts into floats.
        """
        super().load_state_dict(state_dict)
        saved_ids = [i for group in state_dict['param_groups'] for i in group['params']]
        params = [p for group in self.param_groups for p in group['params']]
        for saved_id, param in zip(saved_ids, params, strict=True):
            for key, value in state_dict['state'].get(saved_id, {}).items():
                if isinstance(value, Tensor):
                    self.state[param][key] = value.to(device=param.device, copy=True)
