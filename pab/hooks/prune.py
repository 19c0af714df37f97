"""Prune the network at the start of training, or in several shots over its first epochs."""

import hashlib
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.utils import ProgressBar
from torch import Tensor

from ..contracts import sign_optimizers, weight_flips
from ..pruners import apply_masks_, density_table, prunable_layers, register_masks_
from ..pruners.schedules import linear
from ..registry import HOOKS, PRUNERS
from .parts import network_of, optimizers_of
from .prune_data import PruneData

RECORD = 'pruning'  # the checkpoint's key for what was pruned


@HOOKS.register_module()
class PruneHook(Hook):
    r"""Score the network, mask it, and keep a record of it in every checkpoint.

    Shot s of S (from 1) happens before the epoch with index :math:`\lfloor s E / S \rfloor`, E being ``epoch``, with
    density :math:`1 - (1 - d) s / S`, and likewise for a classifier that has a density of its own; with one shot and
    ``epoch=0`` that is before training. Every shot happens, also where several fall on one epoch. The masks are
    computed by the first process and sent to the others. After a resume, and after ``load_from`` of a file that
    ``tools/prune.py`` wrote, what is pruned already is not pruned again.

    Args:
        pruner: config of a pruner in PRUNERS.
        epoch: the epoch before which the last shot happens, from 0; below the run's number of epochs.
        shots: S, at least 1.
        data: ``dict(num_samples=100, batch_size=100)``: how many training images, drawn by the run's seed and not
            augmented, a pruner that reads data is shown. None for the defaults.

    Raises:
        ValueError: before anything is trained: a setting out of range, an epoch beyond the schedule, a need of the
            pruner that this run cannot meet, or a loaded file that was pruned by another pruner, to another density or
            from another seed.
    """

    priority = 'HIGH'

    def __init__(self, pruner: dict, epoch: int = 0, shots: int = 1, data: dict | None = None) -> None:
        self._me = type(self).__name__  # for errors
        for key, value, least in (('epoch', epoch, 0), ('shots', shots, 1)):
            if type(value) is not int or value < least:
                raise ValueError(f'{self._me}: {key} must be an integer >= {least}, got {value!r}')
        if unknown := sorted(set(data or {}) - set(PruneData.__dataclass_fields__)):
            raise ValueError(f'{self._me}: data has the keys num_samples and batch_size, got {", ".join(unknown)}')
        self.pruner = PRUNERS.build(pruner)
        self._name = type(self.pruner).__name__
        self.epoch, self.shots, self.data = epoch, shots, PruneData(**(data or {}))
        self.shots_done = 0
        self.pruned_from: dict | None = None
        self._mask_hash = ''

    @property
    def shot_epochs(self) -> list[int]:
        """The epoch, from 0, before which each shot happens."""
        return [shot * self.epoch // self.shots for shot in range(1, self.shots + 1)]

    def fit_to(self, max_epochs: int) -> None:
        """Settle when the shots happen in a run of that many epochs; ValueError if they do not fit into it."""
        if self.epoch >= max_epochs:
            rule = f'epoch must be below the number of epochs, {max_epochs}, got {self.epoch}'
            raise ValueError(f'PruneHook: {rule}; prune earlier or train longer')

    def density_after(self, density: Fraction, shot: int) -> Fraction:
        """What a density after the last shot is after shot 1 to S."""
        return linear(density, shot, self.shots)

    def before_run(self, runner: Runner) -> None:
        """Put masks that keep everything on the network, so that checkpoints and averaged copies have them."""
        register_masks_(network_of(runner.model), self.pruner.settings.prunable)

    def before_train(self, runner: Runner) -> None:
        """Refuse what a shot would refuse at its epoch, before work is lost."""
        self.fit_to(runner.max_epochs)
        if self.shots_done == self.shots:
            return
        for shot in range(self.shots_done + 1, self.shots + 1):
            self.pruner.groups(network_of(runner.model), **self._given(runner, shot))
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
                    '(optim_wrapper.optimizers.bop), or leave them out of prunable'
                )

    def before_train_epoch(self, runner: Runner) -> None:
        while self.shots_done < self.shots and self.shot_epochs[self.shots_done] <= runner.epoch:
            self.prune(runner)

    def prune(self, runner: Runner) -> None:
        """Do the next shot: compute the masks, send them to all processes, apply them, report."""
        network = network_of(runner.model)
        given = self._given(runner, self.shots_done + 1)
        masks = same_on_all_ranks(lambda: self._masks(runner, given))
        apply_masks_(network, masks, optimizers_of(runner))
        for hook in runner.hooks:  # an averaged copy still holds what was just removed
            if getattr(hook, 'ema_model', None) is not None:
                apply_masks_(network_of(hook.ema_model.module), masks)
        self.shots_done += 1
        self._mask_hash = hash_masks(masks)
        runner.logger.info(
            f'{self._name}, shot {self.shots_done} of {self.shots}: density {float(given["density"]):.4g}, '
            f'masks sha256 {self._mask_hash[:12]}\n{density_table(masks)}'
        )

    def record(self, runner: Runner) -> dict:
        """What a checkpoint says of the pruning, in plain data."""
        return {
            'pruner': self._name,
            'density': float(self.pruner.settings.density),
            'shots': self.shots,
            'shots_done': self.shots_done,
            'seed': runner.seed,
            'masks_sha256': self._mask_hash,
            'pruned_from': self.pruned_from,
        }

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint[RECORD] = self.record(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take up the record of a resumed run, or of a file that was pruned beforehand."""
        record = checkpoint.get(RECORD)
        if record is None:
            return
        self.shots_done, self._mask_hash = record['shots_done'], record['masks_sha256']
        self.pruned_from = record['pruned_from']
        if not runner._resume and runner._load_from is not None:
            self._check_record(record, runner)
            path = Path(runner._load_from).expanduser()
            sha256 = hash_file(path) if path.is_file() else None  # an address has none
            self.pruned_from = {'path': str(runner._load_from), 'sha256': sha256}
            runner.logger.info(f'Starting from the pruned network {runner._load_from}, sha256 {sha256}')

    def _check_record(self, record: dict, runner: Runner) -> None:
        here = {'pruner': self._name, 'density': float(self.pruner.settings.density), 'seed': runner.seed}
        here['shots'] = self.shots
        wrong = [f'{key} {record[key]!r} (here {value!r})' for key, value in here.items() if record[key] != value]
        only_evaluates = runner._train_loop is None or isinstance(runner._train_loop, dict)
        if wrong and not only_evaluates:
            raise ValueError(
                f'{self._me}: {runner._load_from} was pruned with {" and ".join(wrong)}; start from a file that '
                'tools/prune.py wrote for this config and seed, or change the config'
            )

    def _given(self, runner: Runner, shot: int) -> dict[str, Any]:
        """The arguments that ``Pruner.groups`` and ``Pruner.prune`` take alike."""
        settings = self.pruner.settings
        asked = {'density': settings.density, 'classifier_density': settings.classifier_density}
        given = {key: self.density_after(value, shot) for key, value in asked.items() if value is not None}
        if 'input_shape' in self.pruner.asks or 'classifier_density' in given:
            given['input_shape'] = self.data.input_shape(runner)
        return given

    def _flips(self, runner: Runner) -> dict[str, Tensor | None]:
        """Name of each prunable weight -> its flips so far, weight by weight; None where no optimizer counts so."""
        optimizers = optimizers_of(runner)
        groups = [group for optimizer in sign_optimizers(optimizers) for group in optimizer.param_groups]
        counted = [param for group in groups if group.get('flips_per_weight') for param in group['params']]
        flips = {param: torch.zeros_like(param, dtype=torch.int32) for param in counted}  # also before its first step
        flips.update(weight_flips(optimizers))
        network = network_of(runner.model)
        names = prunable_layers(network, self.pruner.settings.prunable)
        return {name: flips.get(network.get_parameter(name)) for name in names}

    def _masks(self, runner: Runner, given: dict[str, Any]) -> dict[str, Tensor]:
        batches = self.data.batches(runner) if 'batches' in self.pruner.asks else None
        flips = self._flips(runner) if 'flips' in self.pruner.asks else {}
        if any(count is None for count in flips.values()):
            flips = {}
        bar = RoundsBar(self._name) if self.pruner.settings.rounds > 1 else None
        network = network_of(runner.model)
        return self.pruner.prune(network, batches, flips=flips or None, seed=runner.seed, on_round=bar, **given)


def same_on_all_ranks(compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Compute tensors in the first process and hand them to the others, on the CPU; its error is raised everywhere."""
    outcome: list = [None]
    if is_main_process():
        try:
            outcome = [{name: mask.cpu() for name, mask in compute().items()}]
        except Exception as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


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
