"""Checkpoints at the end of a training, which is complete when its last one is written."""

import mmengine.hooks

from ...registry import HOOKS
from ...run import PabRunner


@HOOKS.register_module()
class CheckpointHook(mmengine.hooks.CheckpointHook):
    """mmengine's, which does not write the last checkpoint again when its validation gives the best result.

    A run that goes on from it validates first, and so finds the best result anew. After the last step, what cannot be
    written of a new best result is a warning.
    """

    def after_val_epoch(self, runner: PabRunner, metrics: dict[str, float] | None = None) -> None:
        """Write the checkpoint of a new best result."""
        last, is_last = self.last_ckpt, runner.epoch == runner.max_epochs
        if is_last:
            self.last_ckpt = None  # where there is one, mmengine writes it again
        try:
            super().after_val_epoch(runner, metrics)
        except OSError as error:
            if last is None or not (is_last or runner.train_loop.stop_training):
                raise
            runner.logger.warning(f'{error}. The training is complete, and its last checkpoint is there: {last}')
        finally:
            self.last_ckpt = last
