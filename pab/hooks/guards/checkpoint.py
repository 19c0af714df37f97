"""Checkpoints of epochs and of the best result, each written once."""

import mmengine.hooks

from ...registry import HOOKS
from ...run import PabRunner


@HOOKS.register_module()
class CheckpointHook(mmengine.hooks.CheckpointHook):
    """mmengine's, which does not write the checkpoint of an epoch again when its validation was the best so far.

    A run that goes on from it validates first, and so finds the best result anew. Once the last epoch's checkpoint is
    there, the training is complete: a best one that cannot be written is a warning.
    """

    def after_val_epoch(self, runner: PabRunner, metrics: dict[str, float] | None = None) -> None:
        """Write the checkpoint of a new best result."""
        last, self.last_ckpt = self.last_ckpt, None  # where there is one, mmengine writes it again
        try:
            super().after_val_epoch(runner, metrics)
        except OSError as error:
            if last is None or runner.epoch < runner.max_epochs:
                raise
            runner.logger.warning(f'{error}. The training is complete, and its last checkpoint is there: {last}')
        finally:
            self.last_ckpt = last
