"""A training loop that a resumed run enters in mid-epoch."""

import itertools
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from mmengine.runner import EpochBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader

from ..registry import LOOPS

VALIDATED = 'epochs_validated'  # the message hub's key for how many epochs the last validation had seen


class EnduringLoader(DataLoader):
    """A DataLoader that gives all of its batches although its workers are ended with the run.

    A signal that ends a job goes to the loader's workers too, while every process of the job still has to finish the
    step that the processes stop after, or a validation. From then on this process loads the batches itself.
    """

    workers_may_end = False  # whether the run was told to end; of the class, as signals are of the process
    _skipped = 0

    def skip(self, batches: int) -> int:
        """Let the next iteration leave out so many batches if the sampler can; otherwise none. Returns how many."""
        sampler = getattr(self.batch_sampler, 'sampler', None)
        if not hasattr(sampler, 'skip'):
            return 0
        sampler.skip(min(batches * self.batch_size, len(sampler)))  # the last batch may be a smaller one
        self._skipped = batches
        return batches

    def __iter__(self) -> Iterator[Any]:
        number, self._skipped = self._skipped, 0
        try:
            for batch in super().__iter__():
                number += 1
                yield batch
            return
        except Exception:  # which one depends on what the loader was about; an error of the data comes again below
            if not (self.num_workers and EnduringLoader.workers_may_end):
                raise
        rest = list(islice(self.batch_sampler, number, None))
        generator = torch.Generator()  # torch's own would move the random numbers of the step
        yield from DataLoader(self.dataset, batch_sampler=rest, collate_fn=self.collate_fn, generator=generator)


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's loop over epochs, which after a resume goes on where the run was stopped.

    Between epochs that is with the validation of the epoch before, if it is not over: the epoch's checkpoint is written
    before it.
    """

    def __init__(self, runner, dataloader, *args, **kwargs) -> None:
        super().__init__(runner, dataloader, *args, **kwargs)
        if len(self.dataloader) == 0:
            raise ValueError(
                f'train_dataloader: an epoch has no batch: drop_last leaves out the only one, of '
                f'{len(self.dataloader.dataset)} images; lower batch_size or set drop_last=False'
            )
        if getattr(self.dataloader, 'generator', self) is None:
            # An iterator draws the seed of its workers when it is made; from torch's default generator, that would
            # move the random numbers of the step, and after a resume an iterator is made before another step.
            self.dataloader.generator = torch.Generator().manual_seed(runner.seed % 2**63)

    def run(self) -> nn.Module:
        """Train and validate to the end of the run."""
        self.runner.call_hook('before_train')
        if self._epoch and self._iter == self._epoch * len(self.dataloader):
            self._validate()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Train on the rest of the current epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.dump_config()  # the first time: now nothing refuses the run any more
        self.runner.model.train()
        done, loader = self._iter - self._epoch * len(self.dataloader), self.dataloader
        skipped = loader.skip(done) if done and hasattr(loader, 'skip') else 0
        batches, end = iter(loader), object()
        for index in itertools.count(skipped):
            self.runner.call_hook('before_fetch', batch_idx=index)
            if (batch := next(batches, end)) is end:
                break
            if index >= done:
                self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _validate(self) -> None:
        """Validate when the epoch that is over calls for it and was not validated before."""
        self._decide_current_val_interval()
        in_turn = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        hub, validation = self.runner.message_hub, self.runner.val_loop
        if validation and in_turn and self._epoch >= self.val_begin and hub.get_info(VALIDATED) != self._epoch:
            # beforehand, because a new best result rewrites the epoch's checkpoint during the validation
            hub.update_info(VALIDATED, self._epoch)
            validation.run()


def check_loop(loop: type) -> None:
    """Raise a ValueError for a class of loops that is not ours, which counts in epochs and resumes exactly."""
    if not issubclass(loop, ResumableEpochLoop):
        raise ValueError(
            f'train_cfg: a run counts in epochs and goes on inside of them, which {loop.__name__} does not; '
            "set type='ResumableEpochLoop' and max_epochs, or derive a loop of your own from it"
        )
