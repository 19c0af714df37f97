"""The base of hooks that prune: shots at epochs, the same masks on all processes, a record in every checkpoint."""

import functools
import hashlib
import sys
from abc import abstractmethod
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import torch
from mmengine.utils import ProgressBar
from torch import Tensor

from ...contracts import counts_of
from ...models import network_of
from ...pruners import apply_masks_, density_table, describe_kept_share, prunable_layers, register_masks_
from ...registry import PRUNERS
from ...run import PabRunner, RunHook
from ...state_dicts import PRUNING_RECORD
from .prune_data import PruneData


class PruningHook(RunHook):
    r"""Score the network, mask it, and keep a record of it in every checkpoint.

    Shot s of S (from 1) happens before the epoch with index :math:`\lfloor s E / S \rfloor`, E being ``epoch``. Every
    shot happens, also where several fall on one epoch. The masks are computed by the first process and sent to the
    others. After a resume, and after ``load_from`` of a file that ``pab prune`` wrote, what is pruned already is
    not pruned again.

    Attributes:
        pruner: the pruner.
        epoch: E, from 0.
        shots, shots_done: S, and how many of them are over.
        data: :class:`PruneData`, the images that a pruner which reads data is shown.
        pruned_from: path and sha256 of the file of ``pab prune`` that the run began with.
    """

    priority = 'HIGH'

    def __init__(self, pruner: dict, shots: int, data: dict | None) -> None:
        self._me = type(self).__name__  # for errors
        if unknown := sorted(set(data or {}) - set(PruneData.__dataclass_fields__)):
            raise ValueError(f'{self._me}: data has the keys num_samples and batch_size, got {", ".join(unknown)}')
        self.pruner = PRUNERS.build(pruner)
        self._name = type(self.pruner).__name__
        self.epoch, self.shots, self.data = 0, shots, PruneData(**(data or {}))
        self.shots_done = 0
        self.pruned_from: dict | None = None
        self._mask_hash = ''

    @property
    def shot_epochs(self) -> list[int]:
        """The epoch, from 0, before which each shot happens."""
        return [shot * self.epoch // self.shots for shot in range(1, self.shots + 1)]

    @abstractmethod
    def fit_to(self, max_epochs: int) -> None:
        """Settle when the shots happen in a run of that many epochs; ValueError if they do not fit into it."""

    @abstractmethod
    def density_after(self, density: Fraction, shot: int) -> Fraction:
        """The density after shot 1 to S, given the one after the last shot."""

    def needs_training(self) -> str | None:
        """Why nothing can be pruned before a training, to follow the hook's name; None where it can."""
        if 'flips' in self.pruner.needs:
            return f'{self._name} scores by the flips of a training'
        return None

    def before_run(self, runner: PabRunner) -> None:
        """Put masks that keep everything on the network, so that checkpoints and averaged copies have them."""
        register_masks_(runner.network, self.pruner.settings.prunable)

    def before_train(self, runner: PabRunner) -> None:
        """Refuse what a shot would refuse at its epoch, before work is lost."""
        self.fit_to(runner.max_epochs)
        if self.shots_done == self.shots:
            return
        for shot in range(self.shots_done + 1, self.shots + 1):
            self.pruner.groups(runner.network, shot=self._shot(shot))
        if 'batches' in self.pruner.asks:
            self.data.check_size(runner)
        if 'flips' in self.pruner.needs:
            if self.shot_epochs[self.shots_done] == 0:
                raise ValueError(
                    f'{self._me}: {self._name} scores by the flips so far, and before epoch 0 there are none; '
                    f'set epoch to at least the number of shots, {self.shots}'
                )
            if uncounted := [name for name, count in self._flips(runner).items() if count is None]:
                raise ValueError(
                    f'{self._me}: {self._name} scores by the flips of each weight, which no optimizer keeps for '
                    f'{", ".join(uncounted)}; set flips_per_weight=True for the sign optimizer that owns them '
                    '(optim_wrapper.optimizers.signs), or leave them out of prunable'
                )

    def before_train_epoch(self, runner: PabRunner) -> None:
        while self.shots_done < self.shots and self.shot_epochs[self.shots_done] <= runner.epoch:
            self.prune(runner)

    def prune(self, runner: PabRunner) -> None:
        """Do the next shot: compute the masks, send them to all processes, apply them, report."""
        network = runner.network
        masks = runner.on_first_process(lambda: self._masks(runner))
        apply_masks_(network, masks, runner.optimizers)
        for hook in runner.hooks:  # an averaged copy still holds what was just removed
            if getattr(hook, 'ema_model', None) is not None:
                apply_masks_(network_of(hook.ema_model.module), masks)
        self.shots_done += 1
        self._mask_hash = hash_masks(masks)
        kept, total = (sum(int(count(mask)) for mask in masks.values()) for count in (torch.sum, torch.numel))
        runner.logger.info(
            f'{self._name}, shot {self.shots_done} of {self.shots}: density {kept / total:.4g}, '
            f'masks sha256 {self._mask_hash[:12]}\n{density_table(masks)}\n{describe_kept_share(network)}'
        )

    def record(self, runner: PabRunner) -> dict:
        """The pruning so far in plain data, as checkpoints hold it."""
        return {
            'pruner': self._name,
            'density': self.pruner.settings.density.plain,
            'shots': self.shots,
            'shots_done': self.shots_done,
            'seed': runner.seed,
            'masks_sha256': self._mask_hash,
            'pruned_from': self.pruned_from,
        }

    def before_save_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        checkpoint[PRUNING_RECORD] = self.record(runner)

    def after_load_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        """Take up the record of a resumed run, or of a file that was pruned beforehand."""
        record = checkpoint.get(PRUNING_RECORD)
        if record is None or not (runner.resumes or record['shots_done']):  # dense so far
            return
        self.shots_done, self._mask_hash = record['shots_done'], record['masks_sha256']
        self.pruned_from = record['pruned_from']
        if not runner.resumes and runner.start_file is not None:
            self._check_record(record, runner)
            path = Path(runner.start_file).expanduser()
            sha256 = hash_file(path) if path.is_file() else None  # an address has none
            self.pruned_from = {'path': str(runner.start_file), 'sha256': sha256}
            runner.logger.info(f'Starting from the pruned network {runner.start_file}, sha256 {sha256}')

    def _check_record(self, record: dict, runner: PabRunner) -> None:
        here = {'pruner': self._name, 'density': self.pruner.settings.density.plain, 'seed': runner.seed}
        here['shots'] = self.shots
        wrong = [f'{key} {record[key]!r} (here {value!r})' for key, value in here.items() if record[key] != value]
        if wrong and runner.trains:
            raise ValueError(
                f'{self._me}: {runner.start_file} was pruned with {" and ".join(wrong)}; start from a file that '
                'pab prune wrote for this config and seed, or change the config'
            )

    def _shot(self, shot: int) -> Callable[[Fraction], Fraction]:
        return functools.partial(self.density_after, shot=shot)

    def _flips(self, runner: PabRunner) -> dict[str, Tensor | None]:
        """Name of each prunable weight -> its flips so far, weight by weight; None where no optimizer counts so."""
        counted = [p for group in runner.param_groups if group.get('flips_per_weight') for p in group['params']]
        flips = {param: torch.zeros_like(param, dtype=torch.int32) for param in counted}  # also before its first step
        flips.update(counts_of(runner.optimizers, 'weight_flips'))
        names = prunable_layers(runner.network, self.pruner.settings.prunable)
        return {name: flips.get(runner.network.get_parameter(name)) for name in names}

    def _masks(self, runner: PabRunner) -> dict[str, Tensor]:
        batches = self.data.batches(runner) if 'batches' in self.pruner.asks else None
        flips = self._flips(runner) if 'flips' in self.pruner.asks else {}
        if any(count is None for count in flips.values()):
            flips = {}
        bar = RoundsBar(self._name) if self.pruner.settings.rounds > 1 else None
        masks = self.pruner.prune(
            runner.network,
            batches,
            shot=self._shot(self.shots_done + 1),
            flips=flips or None,
            input_shape=self.data.input_shape(runner) if 'input_shape' in self.pruner.asks else None,
            seed=runner.seed,
            on_round=bar,
        )
        return {name: mask.cpu() for name, mask in masks.items()}  # as they are sent to other processes


class RoundsBar:
    """A progress bar over rounds; where the output is no terminal it moves ten times only."""

    def __init__(self, title: str) -> None:
        self._title, self._bar = title, None

    def __call__(self, done: int, total: int, density: float) -> None:
        if self._bar is None:  # not before there is progress: an error would land on the bar's line
            sys.stdout.write(f'{self._title}, {total} rounds ')
            self._bar = ProgressBar(total, bar_width=30)
        if sys.stdout.isatty() or done % max(1, total // 10) == 0 or done == total:
            self._bar.update(done - self._bar.completed)
        if done == total:
            sys.stdout.write('\n')


def hash_masks(masks: dict[str, Tensor]) -> str:
    """The sha256 of masks: of every name and the bits of its mask, in order."""
    digest = hashlib.sha256()
    for name, mask in masks.items():
        digest.update(name.encode())
        digest.update(mask.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
