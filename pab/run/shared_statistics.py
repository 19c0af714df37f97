"""One set of batch statistics for all processes."""

from mmengine.dist import broadcast, is_distributed
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import HOOKS


@HOOKS.register_module()
class SharedStatisticsHook(Hook):
    """Give every process the running statistics of the first one before each validation.

    A process sees its own part of each batch, so the running means and variances of batch norm differ among processes
    (unless ``sync_bn='torch'``). Checkpoints hold those of the first. With this hook the validation of all processes
    uses what is saved; and as the statistics of the others have no part in training, nothing is lost when a run is
    resumed, in mid-epoch too. A run of one process is left alone.
    """

    priority = 'LOW'  # behind hooks that exchange the model for an averaged one

    def before_val_epoch(self, runner: Runner) -> None:
        """Send all floating buffers of the model."""
        if is_distributed():
            for buffer in runner.model.buffers():
                if buffer.is_floating_point():
                    broadcast(buffer)
