"""Keep the losses on the device until somebody reads them."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import CheckpointHook, LoggerHook, RuntimeInfoHook
from torch import Tensor, stack

from ...registry import HOOKS
from ...run import PabRunner


@HOOKS.register_module()
class DeviceScalarsHook(RuntimeInfoHook):
    """mmengine's RuntimeInfoHook, which waits for the device once a logging interval and not in every step.

    The losses of the steps come to the message hub in one transfer when the logger is about to read them, at the end of
    an epoch, and before a checkpoint is written; the values and their order are mmengine's. Hooks get
    what has come at their point ``after_scalars`` (see :class:`pab.run.RunHook`).
    """

    changes_training = False

    def __init__(self) -> None:
        self._pending: list[tuple[int, dict[str, Any]]] = []  # on the device
        self._transferred: list[tuple[int, dict[str, float]]] = []  # not handed over yet

    def after_train_iter(self, runner: PabRunner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Keep what the step returned, and hand over where it is read."""
        if outputs is not None:
            outputs = {**outputs, **getattr(runner.optim_wrapper, 'scalars', {})}
            values = {key: value.detach() if isinstance(value, Tensor) else value for key, value in outputs.items()}
            self._pending.append((runner.iter, values))
        if self._is_read_now(runner, batch_idx):
            self.before_checkpoint(runner)
            scalars, self._transferred = self._transferred, []
            runner.call_hook('after_scalars', scalars=scalars)

    def before_checkpoint(self, runner: PabRunner) -> None:
        """Let the message hub, and the checkpoint with it, have every step's values."""
        numbers = to_numbers([values for _, values in self._pending])
        for (step, _), values in zip(self._pending, numbers, strict=True):
            for key, value in values.items():
                runner.message_hub.update_scalar(f'train/{key}', value)
            self._transferred.append((step, values))
        self._pending = []

    def _is_read_now(self, runner: PabRunner, batch_idx: int) -> bool:
        def reads(hook) -> bool:
            if isinstance(hook, CheckpointHook):
                return not hook.by_epoch and self.every_n_train_iters(runner, hook.interval, hook.save_begin)
            return isinstance(hook, LoggerHook) and self.every_n_inner_iters(batch_idx, hook.interval)

        over = self.end_of_epoch(runner.train_dataloader, batch_idx) or self.is_last_train_iter(runner)
        return over or any(map(reads, runner.hooks))


def to_numbers(rows: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turn the tensors of one element in dicts into python numbers, by one transfer for each device and type."""
    numbers = [dict(row) for row in rows]
    groups: defaultdict[tuple, list[tuple[dict, str]]] = defaultdict(list)
    for row in numbers:
        for key, value in row.items():
            if isinstance(value, Tensor):
                groups[value.device, value.dtype].append((row, key))
    for places in groups.values():
        values = stack([row[key].reshape(()) for row, key in places]).tolist()
        for (row, key), value in zip(places, values, strict=True):
            row[key] = value
    return numbers
