"""An epoch loop that can begin in the middle of an epoch."""

from collections.abc import Iterator

import torch
from mmengine.runner import EpochBasedTrainLoop
from torch import nn

from ..registry import LOOPS

VALIDATED = 'epochs_validated'  # the message hub's key for how many epochs the last validation had seen


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's loop over epochs, which after a resume goes on where the run was stopped.

    In mid-epoch that is with the next batch of that epoch. Batches that were trained on before are not loaded again:
    the sampler starts behind them. A sampler that cannot (without :meth:`pab.datasets.EpochSampler.skip`) has them
    loaded and dropped, which gives the same order. Between epochs, it is with the validation of the epoch before if
    that is not over: the epoch's checkpoint is written before it.
    """

    def __init__(self, runner, dataloader, *args, **kwargs) -> None:
        super().__init__(runner, dataloader, *args, **kwargs)
        if getattr(self.dataloader, 'generator', self) is None:
            # An iterator draws the seed of its workers when it is made; from torch's default generator, that would
            # move the random numbers of the step, and after a resume an iterator is made before another step.
            self.dataloader.generator = torch.Generator().manual_seed(runner.seed % 2**63)

    def run(self) -> nn.Module:
        """Train and validate what is left of the run."""
        self.runner.call_hook('before_train')
        if self._epoch and self._iter == self._epoch * len(self.dataloader):
            self._validate()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Train on what is left of the current epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done = self._iter - self._epoch * len(self.dataloader)
        sampler = getattr(self.dataloader.batch_sampler, 'sampler', None)
        skips = done > 0 and hasattr(sampler, 'skip')
        if skips:  # the last batch may be a smaller one
            sampler.skip(min(done * self.dataloader.batch_size, len(sampler)))
        batches = enumerate(self.dataloader, start=done if skips else 0)
        while (fetched := self._fetch(batches)) is not None:
            if fetched[0] >= done:
                self.run_iter(*fetched)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _fetch(self, batches: Iterator[tuple[int, dict]]) -> tuple[int, dict] | None:
        try:
            return next(batches, None)
        except RuntimeError:  # such as workers that were ended by the signal that ends the run
            self.runner.call_hook('after_failed_fetch')
            raise

    def _validate(self) -> None:
        """Validate when the epoch that is over calls for it and was not validated before."""
        self._decide_current_val_interval()
        due = self._epoch >= self.val_begin and (
            self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        )
        if self.runner.val_loop is None or not due or self.runner.message_hub.get_info(VALIDATED) == self._epoch:
            return
        # beforehand, because a new best result rewrites the epoch's checkpoint during the validation
        self.runner.message_hub.update_info(VALIDATED, self._epoch)
        self.runner.val_loop.run()
