"""Several optimizers behind one backward pass, in the shape mmengine's runner expects."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn
from torch.optim import Optimizer

from ..checks import check_ints, known_choice
from ..contracts import learning_rates
from ..registry import OPTIM_WRAPPERS

CLIPPINGS = {'norm': nn.utils.clip_grad_norm_, 'value': nn.utils.clip_grad_value_}
PRECISIONS = {'float32': None, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


@OPTIM_WRAPPERS.register_module()
class SharedBackward(OptimWrapperDict):
    """One backward pass, then one step of every optimizer.

    Accumulation, clipping, autocast, param schedulers and resume work as with a single optimizer; mmengine's own dict
    of wrappers leaves all of it to a hand-written ``train_step``.

    Args:
        accumulative_counts: backward passes for one step; the loss is divided by it. >= 1.
        clip_grad: keyword arguments of ``torch.nn.utils.clip_grad_norm_`` (or ``clip_grad_value_`` with
            ``type='value'``), applied once over the gradients of all optimizers; None does not clip.
        precision: 'float32', or 'bfloat16' / 'float16' to run the forward pass under autocast on any device; float16
            scales the loss by one scaler that all optimizers share, and skips every step when a gradient overflows.
        **optimizers: the optimizers by name.
    """

    def __init__(
        self, accumulative_counts: int = 1, clip_grad: dict | None = None, precision='float32', **optimizers: Optimizer
    ) -> None:
        known_choice('SharedBackward', 'precision', precision, PRECISIONS)
        check_ints('SharedBackward', accumulative_counts=accumulative_counts)
        for name, optimizer in optimizers.items():
            if not isinstance(optimizer, Optimizer):
                raise TypeError(
                    f'SharedBackward: {name!r} is neither an optimizer nor a setting, got {optimizer!r}; the settings '
                    'are accumulative_counts, clip_grad and precision; optimizers stand in optim_wrapper.optimizers'
                )
        super().__init__(**{name: OptimWrapper(o, accumulative_counts) for name, o in optimizers.items()})
        self._first = next(self.values())
        check_clipping('SharedBackward: clip_grad', clip_grad)
        self.clip_grad = None if clip_grad is None else {'type': 'norm', **clip_grad}
        self.scalars: dict[str, Tensor] = {}
        """Numbers of the last step for the log, on the device: 'grad_norm' when it clipped by the norm."""
        self.dtype = PRECISIONS[precision]
        self.device_type = self._parameters()[0].device.type
        self.scaler = torch.amp.GradScaler(self.device_type) if self.dtype is torch.float16 else None

    def update_params(self, loss: Tensor, step_kwargs: dict | None = None, zero_kwargs: dict | None = None) -> None:
        """Scale the loss, run one backward pass and, every ``accumulative_counts`` calls, step every optimizer."""
        self.backward(self._first.scale_loss(loss))
        if self._first.should_update():
            self.step(**(step_kwargs or {}))
            self.zero_grad(**(zero_kwargs or {}))

    def backward(self, loss: Tensor, **kwargs) -> None:
        (self.scaler.scale(loss) if self.scaler else loss).backward(**kwargs)
        for wrapper in self.values():
            wrapper._inner_count += 1  # mmengine leaves the count to whoever calls backward

    def step(self, **kwargs) -> None:
        if self._unscale():
            self._clip()
            for wrapper in self.values():
                wrapper.step(**kwargs)
        if self.scaler:
            self.scaler.update()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast, and no gradient synchronisation in a step that only accumulates."""
        autocast = torch.autocast(self.device_type, self.dtype, enabled=self.dtype is not None)
        with self._first.optim_context(model), autocast:
            yield

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        for wrapper in self.values():
            wrapper.initialize_count_status(model, init_counts, max_counts)

    def get_lr(self) -> dict[str, list[float]]:
        """The learning rates of the optimizers that have one (Bop has none), for the log."""
        rates = {name: [group['lr'] for group in learning_rates([w.optimizer])] for name, w in self.items()}
        having = {name: values for name, values in rates.items() if values}
        return {'lr' if len(having) == 1 else f'{name}.lr': values for name, values in having.items()}

    def state_dict(self) -> dict:
        state = super().state_dict()
        if self.scaler:
            state['scaler'] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore every optimizer; ValueError for the state of other optimizers, or of another precision."""
        state, own = dict(state_dict), self.state_dict()
        if state.keys() != own.keys():
            raise ValueError(
                f'SharedBackward: the checkpoint holds the state of {sorted(state)}, this run has {sorted(own)}; '
                'resume with the optimizers and the precision the run was started with'
            )
        if self.scaler:
            self.scaler.load_state_dict(state.pop('scaler'))
        super().load_state_dict(state)

    def _parameters(self) -> list[Tensor]:
        return [param for w in self.values() for group in w.optimizer.param_groups for param in group['params']]

    def _unscale(self) -> bool:
        """Take the scaler's factor out of the gradients; True if a step may follow."""
        if self.scaler is None:
            return True
        for wrapper in self.values():
            self.scaler.unscale_(wrapper.optimizer)
        # The scaler would judge each optimizer by its own gradients; a step of one without the other splits the update.
        grads = [param.grad for param in self._parameters() if param.grad is not None]
        return bool(torch.isfinite(nn.utils.get_total_norm(grads, norm_type=float('inf'))))

    def _clip(self) -> None:
        if self.clip_grad is not None:
            kwargs = dict(self.clip_grad)
            clip = CLIPPINGS[kwargs.pop('type')]
            if (norm := clip(self._parameters(), **kwargs)) is not None:
                self.scalars['grad_norm'] = norm


def check_clipping(where: str, clip_grad: Any) -> None:
    """Raise a ValueError or TypeError, which begins with ``where``, unless gradients can be clipped so; None can."""
    if clip_grad is None:
        return
    if not isinstance(clip_grad, Mapping) or not clip_grad:
        raise ValueError(f'{where} must be a dict such as dict(max_norm=1.0), or None, got {clip_grad!r}')
    settings = dict(clip_grad)
    kind = settings.pop('type', 'norm')
    known_choice(where.partition(':')[0], 'clip_grad.type', kind, CLIPPINGS)
    try:
        inspect.signature(CLIPPINGS[kind]).bind([], **settings)
    except TypeError as error:
        raise TypeError(f'{where} does not fit {CLIPPINGS[kind].__name__}: {error}') from None
    for key in ('max_norm', 'clip_value', 'norm_type'):
        value = settings.get(key, 1)
        number = float(value) if key == 'norm_type' and value == 'inf' else value
        if isinstance(number, bool) or not isinstance(number, Real) or not number > 0:
            raise ValueError(f'{where}.{key} must be a number above 0, got {value!r}')
