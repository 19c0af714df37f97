"""Base of the optimizers that flip signs: the step over all tensors, the counts, exact restoring."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from .flips import laid_out

RANGES = {
    'lie in (0, 1)': lambda value: 0 < value < 1,
    'lie in [0, 1]': lambda value: 0 <= value <= 1,
    'be >= 0': lambda value: value >= 0,
}


class SignOptimizer(Optimizer, ABC):
    """An optimizer that changes nothing but signs; it offers all that :mod:`pab.contracts` says of sign optimizers.

    A subclass, such as :class:`~pab.optim.Bop`, says what a step does to one tensor (:meth:`flip`), and may give ranges
    of settings and start a state of its own. Parameter groups may have ``flips_per_weight``, which counts the flips of
    every single weight.

    Parameter groups have ``lr`` where they have the setting that ``scaled_by_lr`` names. It is a factor on that
    setting, 1 at first, so that schedulers which know of learning rates alone (LambdaLR, those of timm and
    transformers) move the step size of the signs.

    Args:
        params: floating tensors, or dicts of them (parameter groups).
        defaults: the settings; ``lr`` may be one of them, >= 0, else ValueError.
    """

    scaled_by_lr = 'adaptivity_rate'
    """The setting that a step multiplies by ``lr``; if the product is above 1, the step raises a ValueError."""

    ranges: ClassVar[dict[str, str]] = {}
    """Setting -> a key of ``RANGES``, what it must do in every parameter group; else a ValueError."""

    last_flips: Tensor | None
    """The number of weights that the last step flipped: int64, no dimensions, on the device (reading it waits)."""

    def __init__(self, params: Iterable, defaults: dict[str, Any]) -> None:
        super().__init__(params, {'lr': 1.0, **defaults} if self.scaled_by_lr in defaults else defaults)
        # not on the class: lightning's wrapper of optimizers forwards only what the class lacks
        self.last_flips = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault('last_flips', None)  # a copy has none

    def start(self, param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """The state of a parameter before its first step: the average of its gradients, 0."""
        # At a rate of 1e-3 an average in half precision would never move.
        dtype = torch.promote_types(param.dtype, torch.float32)
        return {'moving_average': torch.zeros_like(param, dtype=dtype)}

    @abstractmethod
    def flip(self, param: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        """Step on one parameter, in place.

        ``state`` comes from :meth:`start`, tensors of the parameter's shape having its memory layout too, and has
        'weight_flips' where flips are to be added to the counts of every weight; ``group`` has the settings. Returns
        how many weights have flipped: int64, no dimensions, on the device.
        """

    def flip_group(
        self, params: list[Tensor], states: list[dict[str, Tensor]], group: dict[str, Any]
    ) -> Sequence[Tensor]:
        """Step on all parameters of a group that have gradients; their flips as from :meth:`flip`, which it calls."""
        return [self.flip(param, state, group) for param, state in zip(params, states, strict=True)]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        settings = {**self.defaults, **param_group}
        for name, rule in {'lr': 'be >= 0', **self.ranges}.items():
            if name in settings and not (isinstance(settings[name], Real | Tensor) and RANGES[rule](settings[name])):
                raise ValueError(f'{type(self).__name__}: {name} must {rule}, got {settings[name]!r}')
        super().add_param_group(param_group)
        for param in self.param_groups[-1]['params']:
            if not param.is_floating_point():
                raise TypeError(f'{type(self).__name__}: parameters must be floating tensors, got dtype {param.dtype}')

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Step on every parameter that has a gradient, and count the flips on the device; return the closure's loss."""
        with torch.enable_grad():
            loss = closure() if closure else None
        counts, totals = [], []
        for group in self.param_groups:
            settings, params = self._scaled(group), [param for param in group['params'] if param.grad is not None]
            states = [self._state_of(param, settings) for param in params]
            counts += self.flip_group(params, states, settings)
            totals += [state['tensor_flips'] for state in states]
        if counts:
            torch._foreach_add_(totals, counts)
        self.last_flips = torch.stack([c.to(counts[0].device) for c in counts]).sum() if counts else None
        return loss

    def _scaled(self, group: dict[str, Any]) -> dict[str, Any]:
        name, lr = self.scaled_by_lr, group.get('lr', 1)
        if lr == 1:
            return group
        if lr < 0:
            raise ValueError(f'{type(self).__name__}: lr must be >= 0, got {lr:g}; let its schedule end at 0')
        if not (scaled := group[name] * lr) <= 1:
            raise ValueError(
                f'{type(self).__name__}: lr is a factor on {name}; {lr:g} times {group[name]:g} is more than 1; let lr '
                'start at 1, or lower that setting'
            )
        return {**group, name: scaled}

    def _state_of(self, param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        if param.grad.is_sparse:
            raise RuntimeError(f'{type(self).__name__}: sparse gradients are not supported; use a dense layer')
        state = self.state[param]
        if not state:
            state['tensor_flips'] = torch.zeros((), dtype=torch.int64, device=param.device)
            state.update(self.start(param, group))
        if not group.get('flips_per_weight'):
            state.pop('weight_flips', None)
        elif 'weight_flips' not in state:
            state['weight_flips'] = torch.zeros_like(param, dtype=torch.int32)
        for name, value in state.items():
            if value.shape == param.shape:  # the weight's layout may change between steps
                state[name] = laid_out(value, param)
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state in its types, which torch's loader would cast; ValueError for that of another optimizer."""
        super().load_state_dict({**state_dict, 'state': {}})
        saved_ids = [i for group in state_dict['param_groups'] for i in group['params']]
        params = [p for group in self.param_groups for p in group['params']]
        for saved_id, param in zip(saved_ids, params, strict=True):
            if saved := state_dict['state'].get(saved_id):
                if 'tensor_flips' not in saved:
                    raise ValueError(
                        f'{type(self).__name__}: its state has tensor_flips, the one to restore only {sorted(saved)}; '
                        'go on with the optimizer and the version of pab that saved it'
                    )
                self.state[param] = {name: value.to(param.device, copy=True) for name, value in saved.items()}
