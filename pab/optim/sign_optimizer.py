"""What optimizers that flip signs share: the step over all tensors, the counts, the state."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from .flips import Rule, flip_, laid_out


class SignOptimizer(Optimizer, ABC):
    """An optimizer that changes nothing but signs, by a rule that works entry by entry; see :class:`~pab.optim.Bop`.

    A subclass has a rule, the names of its averages, :meth:`numbers` and :meth:`check`. It then offers all that
    :mod:`pab.contracts` says of sign optimizers. Its parameter groups have ``flips_per_weight``: whether the flips of
    every single weight are counted.
    """

    rule: ClassVar[Rule]
    """A static method; see :data:`pab.optim.flips.Rule`."""
    averages: ClassVar[tuple[str, ...]]
    """The names in the state of the tensors that the rule averages into; each has its parameter's shape."""

    last_flips: Tensor | None = None
    """How many weights the last step flipped: int64, no dimensions, on the device (reading it waits for it)."""

    @abstractmethod
    def numbers(self, param: Tensor, group: dict[str, Any]) -> tuple[float | Tensor, ...]:
        """What the rule is given behind the averages of a parameter."""

    @abstractmethod
    def check(self, settings: dict[str, Any]) -> None:
        """Raise a ValueError for settings of a parameter group that are out of range."""

    def start(self, name: str, param: Tensor, group: dict[str, Any]) -> Tensor:
        """The average ``name`` before the first step of a parameter: zeros."""
        # At a rate of 1e-3 an average in half precision would never move.
        return torch.zeros_like(param, dtype=torch.promote_types(param.dtype, torch.float32))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; the settings are checked as in the constructor."""
        self.check({**self.defaults, **param_group})
        super().add_param_group(param_group)
        for param in self.param_groups[-1]['params']:
            if not param.is_floating_point():
                raise TypeError(f'{type(self).__name__}: parameters must be floating tensors, got dtype {param.dtype}')

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Average the gradients, flip by the rule, count the flips on the device.

        A parameter without a gradient is left as it is, its averages too.

        Args:
            closure: computes the loss again and returns it.

        Returns:
            The closure's loss, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        pairs = [(p, group) for group in self.param_groups for p in group['params'] if p.grad is not None]
        counts = [self._step_param(param, group) for param, group in pairs]
        if counts:
            torch._foreach_add_([self.state[param]['tensor_flips'] for param, _ in pairs], counts)
        self.last_flips = torch.stack([c.to(counts[0].device) for c in counts]).sum() if counts else None
        return loss

    def _step_param(self, param: Tensor, group: dict[str, Any]) -> Tensor:
        if param.grad.is_sparse:
            raise RuntimeError(f'{type(self).__name__}: sparse gradients are not supported; use a dense layer')
        state = self.state[param]
        if not state:
            state.update({name: self.start(name, param, group) for name in self.averages})
            state['tensor_flips'] = torch.zeros((), dtype=torch.int64, device=param.device)
        if group['flips_per_weight'] and 'weight_flips' not in state:
            state['weight_flips'] = torch.zeros_like(param, dtype=torch.int32)
        for name in (*self.averages, 'weight_flips'):
            if name in state:  # the layout of a weight may change between steps
                state[name] = laid_out(state[name], param)
        averages = [state[name] for name in self.averages]
        weight_flips = state['weight_flips'] if group['flips_per_weight'] else None
        return flip_(self.rule, param, param.grad, averages, weight_flips, self.numbers(param, group))

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore averages and counts exactly, in the types they were saved in.

        torch's own loader would cast every tensor to its parameter's type, and turn counts into floats.

        Raises:
            ValueError: the state is that of another optimizer.
        """
        super().load_state_dict({**state_dict, 'state': {}})
        saved_ids = [i for group in state_dict['param_groups'] for i in group['params']]
        params = [p for group in self.param_groups for p in group['params']]
        needed = {*self.averages, 'tensor_flips'}
        for saved_id, param in zip(saved_ids, params, strict=True):
            saved = state_dict['state'].get(saved_id, {})
            if saved and not needed <= set(saved):
                raise ValueError(
                    f'{type(self).__name__}: its state has {sorted(needed)}, the one to restore {sorted(saved)}; go on '
                    'with the optimizer and the version of pab that saved it'
                )
            if saved:
                self.state[param] = {name: value.to(param.device, copy=True) for name, value in saved.items()}
