"""A training loop that a resumed run enters in mid-epoch."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from mmengine.runner import EpochBasedTrainLoop, Runner
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

    def __iter__(self) -> Iterator[Any]:
        return self.batches_from(0)

    def batches_from(self, first: int) -> Iterator[Any]:
        """The batches of the epoch from number ``first`` >= 0 on, without loading others if the sampler can skip."""
        sampler, number = getattr(self.batch_sampler, 'sampler', None), 0
        if first and hasattr(sampler, 'skip'):
            sampler.skip(min(first * self.batch_size, len(sampler)))  # the last batch may be a smaller one
            number = first
        try:
            for batch in super().__iter__():
                if number >= first:
                    yield batch
                number += 1
            return
        except Exception:  # which one depends on what the loader was about; an error of the data comes again below
            if not (self.num_workers and EnduringLoader.workers_may_end):
                raise
        rest = list(islice(self.batch_sampler, max(number, first), None))
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
        done, loader = self._iter - self._epoch * len(self.dataloader), self.dataloader
        batches = loader.batches_from(done) if hasattr(loader, 'batches_from') else islice(loader, done, None)
        for index, batch in enumerate(batches, start=done):
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


def need_epochs(runner: Runner, who: str) -> None:
    """Raise a ValueError naming the hook ``who`` unless the training loop is one over epochs."""
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        raise ValueError(
            f'{who}: counts in epochs, and the training loop is {type(runner.train_loop).__name__}; set '
            "train_cfg.type='ResumableEpochLoop', or drop the hook"
        )
