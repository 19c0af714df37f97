"""An epoch loop that can begin in the middle of an epoch."""

from mmengine.runner import EpochBasedTrainLoop

from ..registry import LOOPS


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's loop over epochs, which after a resume in mid-epoch goes on with the next batch of that epoch.

    Batches that were trained on before are not loaded again: the sampler starts behind them. A sampler that cannot
    (without :meth:`pab.datasets.EpochSampler.skip`) has them loaded and dropped, which gives the same order.
    """

    def run_epoch(self) -> None:
        """Train on what is left of the current epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done = self._iter - self._epoch * len(self.dataloader)
        sampler = getattr(self.dataloader.batch_sampler, 'sampler', None)
        skips = done > 0 and hasattr(sampler, 'skip')
        if skips:
            sampler.skip(done * self.dataloader.batch_size)
        for idx, data_batch in enumerate(self.dataloader, start=done if skips else 0):
            if idx >= done:
                self.run_iter(idx, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
