"""Write checkpoints that load without running code."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from ..registry import HOOKS
from .plain import to_plain


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Turn what a checkpoint holds into plain data just before it is written.

    mmengine puts objects of its own into checkpoints, which ``torch.load(weights_only=True)``, the default of
    today's torch, refuses. :class:`~pab.run.PabRunner` has this hook in every run, and turns the plain data back
    when it loads. What has no plain form (an object that somebody else's hook added) is left out and named in a
    warning, once. The length of an epoch is added, so that a resume can tell whether it has changed.
    """

    priority = 'LOWEST'  # after every hook that adds something

    def __init__(self) -> None:
        self._reported: set[str] = set()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Convert everything but tensors by name, which are plain already."""
        checkpoint['meta']['epoch_length'] = len(runner.train_dataloader)
        dropped: list[str] = []
        for key, value in checkpoint.items():
            if not (isinstance(value, dict) and all(isinstance(v, Tensor) for v in value.values())):
                checkpoint[key] = to_plain(value, key, dropped)
        if new := [name for name in dropped if name not in self._reported]:
            self._reported.update(new)
            runner.logger.warning(f'left out of checkpoints, because they have no plain form: {", ".join(new)}')
