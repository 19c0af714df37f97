"""The running statistics that all processes validate with."""

from mmengine.dist import broadcast, is_distributed

from ...registry import HOOKS
from ...run import PabRunner, RunHook


@HOOKS.register_module()
class SharedStatisticsHook(RunHook):
    """Give every process the running statistics of the first one before each validation.

    A process sees its own part of each batch, so the running means and variances of batch norm differ among processes
    (unless ``sync_bn='torch'``). Checkpoints hold those of the first, and with this hook all validate what is saved.
    """

    priority = 'LOW'  # behind hooks that exchange the model for an averaged one
    changes_training = False  # what is validated, and stored, does not change what is trained

    def before_val_epoch(self, runner: PabRunner) -> None:
        """Send all floating buffers of the model."""
        if is_distributed():
            for buffer in runner.model.buffers():
                if buffer.is_floating_point():
                    broadcast(buffer)
