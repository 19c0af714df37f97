"""An average of the model over the steps, which leaves signs alone."""

from mmengine.hooks import EMAHook as MMEngineEMAHook

from ...registry import HOOKS
from ...run import PabRunner


@HOOKS.register_module()
class EMAHook(MMEngineEMAHook):
    r"""mmengine's EMAHook, whose copy of the model has sign-trained weights and masks as they are.

    A sign-trained weight is +a or -a for ever. Its average over steps is another magnitude, and a network with that is
    none that training could reach. So what an optimizer that flips signs owns is copied after every step, and the rest
    is averaged: by default :math:`a \leftarrow (1 - \text{momentum})\, a + \text{momentum}\, w`. ``ema_type`` and
    every other argument are mmengine's; checkpoints and validations use the copy, as there.
    """

    def before_train(self, runner: PabRunner) -> None:
        """Find out what is not averaged."""
        super().before_train(runner)
        signed, copy = set(runner.sign_trained.values()), self.ema_model.module
        params = zip(copy.parameters(), self.src_model.parameters(), strict=True)
        self._copied = [(there, here) for there, here in params if here in signed]
        if self.ema_model.update_buffers:  # else all of them are copied
            buffers = zip(copy.buffers(), self.src_model.buffers(), strict=True)
            self._copied += [(there, here) for there, here in buffers if not here.is_floating_point()]

    def after_train_iter(self, runner: PabRunner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        for there, here in self._copied:
            there.data.copy_(here.data)

    def after_load_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        """Take up the copy of a resumed run, or begin with the weights of the file."""
        if hasattr(self, 'ema_model'):  # where nothing runs, as in pab prune, there is none
            super().after_load_checkpoint(runner, checkpoint)
