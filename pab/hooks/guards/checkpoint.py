"""Checkpoints at the end of a training, which is complete when its last one is written."""

import mmengine.hooks

from ...registry import HOOKS
from ...run import PabRunner


@HOOKS.register_module()
class CheckpointHook(mmengine.hooks.CheckpointHook):
    """mmengine's, for which a best checkpoint that cannot be written after the last step is a warning."""

    def after_val_epoch(self, runner: PabRunner, metrics: dict[str, float] | None = None) -> None:
        """Write the checkpoint of a new best result."""
        last = self.last_ckpt
        try:
            super().after_val_epoch(runner, metrics)
        except OSError as error:
            if last is None or not (runner.epoch == runner.max_epochs or runner.train_loop.stop_training):
                raise
            runner.logger.warning(f'{error}. The training is complete, and its last checkpoint is there: {last}')
