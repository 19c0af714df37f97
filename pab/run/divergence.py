"""Stop a run whose loss is no longer finite, and say where it began."""

import math

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor

from ..hooks.parts import optimizers_of
from ..registry import HOOKS
from .layer_statistics import PassStatistics, layer_statistics
from .loading import NOT_FOR_RESUME


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Stop when a loss is NaN or infinite: with the step, the rates, numbers of every layer, and a checkpoint.

    It looks at the losses when they come from the device, once a logging interval and at the end of an epoch (see
    :class:`DeviceScalarsHook`), so it costs no step anything. The numbers are those of the state at that time, with
    the last batch run once more: the table in the log has every layer, the error the first one that is not finite.
    The checkpoint, ``diverged_iter_<n>.pth``, is for looking at; resuming passes over it.

    Raises:
        FloatingPointError: a loss was not finite, on any process.
    """

    def after_scalars(self, runner: Runner, scalars: list[tuple[int, dict[str, float]]], data_batch) -> None:
        """Look at the losses that have come."""
        first = first_bad(scalars)
        anywhere = torch.tensor(int(first is not None), device=next(runner.model.parameters()).device)
        all_reduce(anywhere, 'max')  # so that no process is left waiting for one that stops
        if anywhere:
            self._stop(runner, first, data_batch)

    def _stop(self, runner: Runner, first: tuple[int, str, float] | None, data_batch) -> None:
        name = f'{NOT_FOR_RESUME}iter_{runner.iter + 1}.pth'
        runner.save_checkpoint(runner.work_dir, name, by_epoch=False)
        statistics = self._statistics(runner, data_batch)
        runner.logger.error(f'After step {runner.iter + 1}, with its batch once more:\n{statistics.table()}')
        what = 'a loss of another process is not finite' if first is None else f'{first[1]} is {first[2]}'
        when = '' if first is None else f' since step {first[0] + 1}'
        raise FloatingPointError(
            f'training stopped: {what}{when} (seen at step {runner.iter + 1}, epoch {runner.epoch + 1}; '
            f'{self._rates(runner)}); it began in {statistics.origin}. All layers are in the log, the state in '
            f'{name}. A lower learning rate or gradient clipping (optim_wrapper.clip_grad) may help'
        )

    @staticmethod
    def _rates(runner: Runner) -> str:
        groups = [group for optimizer in optimizers_of(runner) for group in optimizer.param_groups]
        rates = [f'learning rate {group["lr"]:.3g}' for group in groups if 'lr' in group]
        rates += [f'adaptivity rate {group["adaptivity_rate"]:.3g}' for group in groups if 'adaptivity_rate' in group]
        return ', '.join(rates)

    @staticmethod
    def _statistics(runner: Runner, data_batch) -> PassStatistics:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model

        def loss_of() -> Tensor:
            data = model.data_preprocessor(data_batch, True)
            losses = model(**data, mode='loss') if isinstance(data, dict) else model(*data, mode='loss')
            return model.parse_losses(losses)[0]

        return layer_statistics(model, loss_of, lambda: runner.optim_wrapper.optim_context(model))


def first_bad(scalars: list[tuple[int, dict[str, float]]]) -> tuple[int, str, float] | None:
    """The first loss that is not finite: its step (from 0), name and value; None when all are."""
    for step, values in scalars:
        for name, value in values.items():
            if 'loss' in name and not math.isfinite(value):
                return step, name, value
    return None
