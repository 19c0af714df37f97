"""Stop a run whose loss or gradients are no longer finite, and name the layer where that began."""

import math
from collections import deque

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from ..contracts import sign_optimizers
from ..hooks.parts import optimizers_of
from ..registry import HOOKS
from .layer_statistics import PassStatistics, layer_statistics
from .loading import NOT_FOR_RESUME


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Stop before an update by gradients that are NaN or infinite, and name the layer where the first such number is.

    The norm of all gradients is looked at before every update. A loss that is not finite has such gradients too, and
    processes share their gradients, so all of them stop in the same step. The weights are then still those that the
    step began with: the step is computed once more, with its batches and random numbers, and every layer's weights,
    output and gradients are looked at. The table of all layers is in the log; the error names the first one.

    The norm is one pass over the gradients, on a CPU 0.1 to 0.3 % of a step. On a GPU nobody waits for it: it is read
    one update later, and a copy of the weights from before the update is kept for that long.

    A loss that is not finite although its gradients are, and one that a loss scale skips, are seen when the losses are
    read, once a logging interval (:class:`DeviceScalarsHook`). The checkpoint ``diverged_iter_<n>.pth`` is for looking
    at; resuming passes over it.

    Raises:
        FloatingPointError: a loss or a gradient was not finite, on any process.
    """

    def __init__(self) -> None:
        self._passes: deque[tuple] = deque(maxlen=1)  # (batch, random states) of the passes of one update
        self._unread: tuple | None = None  # on a GPU: what is known of the last update
        self._weights: list[Tensor] = []  # on a GPU: from before the last update

    def before_train(self, runner: Runner) -> None:
        """Look before every update."""
        wrapper = runner.optim_wrapper
        first = next(iter(wrapper.values())) if hasattr(wrapper, 'values') else wrapper
        self._passes = deque(maxlen=first._accumulative_counts)
        self._params = [param for param in _bare(runner).parameters() if param.requires_grad]
        self._late = self._params[0].is_cuda
        self._handle = optimizers_of(runner)[0].register_step_pre_hook(lambda *_: self._before_update(runner))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Keep what the step would be computed from once more."""
        cuda = torch.cuda.get_rng_state() if self._late else None
        self._passes.append((data_batch, torch.get_rng_state(), cuda))

    def after_train_epoch(self, runner: Runner) -> None:
        """Read what is left."""
        self._read(runner)

    def after_train(self, runner: Runner) -> None:
        """Look no more."""
        self._handle.remove()

    def after_scalars(self, runner: Runner, scalars: list[tuple[int, dict[str, float]]], data_batch) -> None:
        """Look at the losses that have come."""
        first = first_bad(scalars)
        anywhere = torch.tensor(int(first is not None), device=self._params[0].device)
        all_reduce(anywhere, 'max')  # so that no process is left waiting for one that stops
        if anywhere:
            what = 'a loss of another process is not finite' if first is None else f'{first[1]} is {first[2]}'
            self._stop(runner, runner.iter if first is None else first[0], what, list(self._passes))

    def _before_update(self, runner: Runner) -> None:
        norm = torch.nn.utils.get_total_norm([param.grad for param in self._params if param.grad is not None])
        if not self._late:
            if not math.isfinite(norm):
                self._stop(runner, runner.iter, 'a gradient is not finite', list(self._passes))
            return
        self._read(runner)
        self._weights = self._weights or [torch.empty_like(param) for param in self._params]
        torch._foreach_copy_(self._weights, [param.detach() for param in self._params])
        norm = norm.to('cpu', non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._unread = runner.iter, norm, event, list(self._passes)

    def _read(self, runner: Runner) -> None:
        """Look at the last update's norm; the device has computed it while the host prepared this one."""
        if self._unread is None:
            return
        (step, norm, event, passes), self._unread = self._unread, None
        event.synchronize()
        if not math.isfinite(norm):
            for param, before in zip(self._params, self._weights, strict=True):
                param.data.copy_(before)
            self._stop(runner, step, 'a gradient is not finite', passes)

    def _stop(self, runner: Runner, step: int, what: str, passes: list[tuple]) -> None:
        name = f'{NOT_FOR_RESUME}iter_{runner.iter + 1}.pth'
        runner.save_checkpoint(runner.work_dir, name, by_epoch=False)
        for data_batch, state, cuda in passes:
            torch.set_rng_state(state)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda)
            statistics = _compute_again(runner, data_batch)
            if statistics.origin:
                break
        runner.logger.error(f'Step {step + 1}, computed once more:\n{statistics.table()}')
        where = f'it began in {statistics.origin}'
        if not statistics.origin:
            where = (
                'it began in another process' if runner.world_size > 1 else 'computed again, the last step is finite'
            )
        raise FloatingPointError(
            f'training stopped at step {step + 1}: {what} (epoch {runner.epoch + 1}; {_rates(runner)}); {where}. All '
            f'layers are in the log, the state in {name}. A lower learning rate or gradient clipping '
            '(optim_wrapper.clip_grad) may help'
        )


def first_bad(scalars: list[tuple[int, dict[str, float]]]) -> tuple[int, str, float] | None:
    """The first loss that is not finite: its step (from 0), name and value; None when all are."""
    for step, values in scalars:
        for name, value in values.items():
            if 'loss' in name and not math.isfinite(value):
                return step, name, value
    return None


def _bare(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _compute_again(runner: Runner, data_batch) -> PassStatistics:
    model = _bare(runner)

    def loss_of() -> Tensor:
        with runner.optim_wrapper.optim_context(model):
            data = model.data_preprocessor(data_batch, True)
            losses = model(**data, mode='loss') if isinstance(data, dict) else model(*data, mode='loss')
            return model.parse_losses(losses)[0]

    return layer_statistics(model, loss_of)


def _rates(runner: Runner) -> str:
    optimizers = optimizers_of(runner)
    rates = [f'learning rate {group["lr"]:.3g}' for o in optimizers for group in o.param_groups if 'lr' in group]
    groups = [group for optimizer in sign_optimizers(optimizers) for group in optimizer.param_groups]
    rates += [f'adaptivity rate {group["adaptivity_rate"]:.3g}' for group in groups if 'adaptivity_rate' in group]
    return ', '.join(rates)
