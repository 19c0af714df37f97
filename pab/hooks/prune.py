"""Prune the network at the start of training, or in several shots over its first epochs."""

import hashlib
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast, broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.utils import ProgressBar
from torch import Tensor, nn

from ..contracts import weight_flips
from ..pruners import apply_masks_, density_table, register_masks_, shot_density
from ..registry import HOOKS, PRUNERS
from .parts import network_of, optimizers_of, sign_optimizers_of
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
        ValueError: a setting out of range, an epoch beyond the schedule, or a loaded file that was pruned by another
            pruner, to another density or from another seed.
    """

    priority = 'HIGH'

    def __init__(self, pruner: dict, epoch: int = 0, shots: int = 1, data: dict | None = None) -> None:
        if type(epoch) is not int or epoch < 0:
            raise ValueError(f'PruneHook: epoch must be an integer >= 0, got {epoch!r}')
        if type(shots) is not int or shots < 1:
            raise ValueError(f'PruneHook: shots must be an integer >= 1, got {shots!r}')
        self.pruner = PRUNERS.build(pruner)
        self.epoch = epoch
        self.shots = shots
        self.data = PruneData(**(data or {}))
        self.shots_done = 0
        self.pruned_from: dict | None = None
        self._mask_hash = ''

    @property
    def shot_epochs(self) -> list[int]:
        """The epoch, from 0, before which each shot happens."""
        return [shot * self.epoch // self.shots for shot in range(1, self.shots + 1)]

    def before_run(self, runner: Runner) -> None:
        """Put masks that keep everything on the network, so that checkpoints and averaged copies have them."""
        register_masks_(network_of(runner.model), self.pruner.settings.prunable)

    def before_train(self, runner: Runner) -> None:
        """Refuse an epoch that never comes, and a score whose needs this run cannot meet, before work is lost."""
        if self.epoch >= runner.max_epochs:
            raise ValueError(
                f'PruneHook: epoch must be below the number of epochs, {runner.max_epochs}, got {self.epoch}; prune '
                'earlier or train longer'
            )
        if 'flips' in self.pruner.needs:
            if self.shot_epochs[0] == 0 and not self.shots_done:
                raise ValueError(
                    f'PruneHook: {self._pruner_name} scores by the flips so far, and before epoch 0 there are none; '
                    f'set epoch to at least the number of shots, {self.shots}'
                )
            groups = [group for optimizer in sign_optimizers_of(runner) for group in optimizer.param_groups]
            if not any(group.get('flips_per_weight') for group in groups):
                raise ValueError(
                    f'PruneHook: {self._pruner_name} scores by the flips of each weight, which no optimizer keeps; set '
                    'optim_wrapper.optimizers.bop.flips_per_weight=True'
                )

    def before_train_epoch(self, runner: Runner) -> None:
        """Do the shots that are due."""
        while self.shots_done < self.shots and self.shot_epochs[self.shots_done] <= runner.epoch:
            self.prune(runner)

    def prune(self, runner: Runner) -> None:
        """Do the next shot: compute the masks, send them to all processes, apply them, report."""
        network, settings = network_of(runner.model), self.pruner.settings
        asked = {'density': settings.density, 'classifier_density': settings.classifier_density}
        densities = {
            name: shot_density(density, self.shots_done + 1, self.shots)
            for name, density in asked.items()
            if density is not None
        }
        masks = self._same_on_all_ranks(network, lambda: self._masks(runner, network, densities))
        apply_masks_(network, masks, optimizers_of(runner))
        for hook in runner.hooks:  # an averaged copy still holds what was just removed
            if getattr(hook, 'ema_model', None) is not None:
                apply_masks_(network_of(hook.ema_model.module), masks)
        self.shots_done += 1
        self._mask_hash = hash_masks(masks)
        runner.logger.info(
            f'{self._pruner_name}, shot {self.shots_done} of {self.shots}: density {float(densities["density"]):.4g}, '
            f'masks sha256 {self._mask_hash[:12]}\n{density_table(masks)}'
        )

    def record(self, runner: Runner) -> dict:
        """What a checkpoint says of the pruning, in plain data."""
        return {
            'pruner': self._pruner_name,
            'density': float(self.pruner.settings.density),
            'shots': self.shots,
            'shots_done': self.shots_done,
            'seed': runner.seed,
            'masks_sha256': self._mask_hash,
            'pruned_from': self.pruned_from,
        }

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write the record."""
        checkpoint[RECORD] = self.record(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take up the record of a resumed run, or of a file that was pruned beforehand."""
        record = checkpoint.get(RECORD)
        if record is None:
            return
        if not runner._resume and runner._load_from is not None:
            self._check_record(record, runner)
            path = Path(runner._load_from)
            self.pruned_from = {'path': str(path), 'sha256': hash_file(path)}
            runner.logger.info(f'Starting from the pruned network {path}, sha256 {self.pruned_from["sha256"]}')
        else:
            self.pruned_from = record['pruned_from']
        self.shots_done = record['shots_done']
        self._mask_hash = record['masks_sha256']

    def _check_record(self, record: dict, runner: Runner) -> None:
        here = {'pruner': self._pruner_name, 'density': float(self.pruner.settings.density), 'seed': runner.seed}
        wrong = [f'{key} {record[key]!r} (here {value!r})' for key, value in here.items() if record[key] != value]
        if wrong and not self._only_evaluates(runner):
            raise ValueError(
                f'PruneHook: {runner._load_from} was pruned with {" and ".join(wrong)}; start from a file that '
                'tools/prune.py wrote for this config and seed, or change the config'
            )

    @staticmethod
    def _only_evaluates(runner: Runner) -> bool:
        return runner._train_loop is None or isinstance(runner._train_loop, dict)

    @property
    def _pruner_name(self) -> str:
        return type(self.pruner).__name__

    def _masks(self, runner: Runner, network: nn.Module, densities: dict[str, Fraction]) -> dict[str, Tensor]:
        given: dict[str, Any] = {**densities}
        if 'batches' in self.pruner.asks:
            given['batches'] = self.data.batches(runner)
        if 'flips' in self.pruner.asks:
            counts = weight_flips(optimizers_of(runner))
            flips = {name: counts[param] for name, param in network.named_parameters() if param in counts}
            if 'flips' in self.pruner.needs or flips:
                given['flips'] = flips
        if 'input_shape' in self.pruner.asks:
            given['input_shape'] = getattr(network, 'input_shape', None) or self.data.input_shape(runner)
        rounds = self.pruner.settings.rounds
        bar = RoundsBar(self._pruner_name, rounds) if rounds > 1 else None
        return self.pruner.prune(network, seed=runner.seed, on_round=bar, **given)

    @staticmethod
    def _same_on_all_ranks(network: nn.Module, compute) -> dict[str, Tensor]:
        """Compute masks in the first process and hand them to the others; an error there is raised everywhere."""
        outcome: list = [None]
        masks: dict[str, Tensor] = {}
        if is_main_process():
            try:
                masks = compute()
                outcome = [list(masks)]
            except Exception as error:
                broadcast_object_list([error])
                raise
        broadcast_object_list(outcome)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        weights = dict(network.named_parameters())
        for name in outcome[0]:
            mask = masks.get(name, torch.empty_like(weights[name], dtype=torch.bool))
            sent = mask.to(torch.uint8).contiguous()
            broadcast(sent)
            masks[name] = sent.bool()
        return masks


class RoundsBar:
    """A progress bar over rounds; where the output is no terminal it moves ten times only."""

    def __init__(self, title: str, rounds: int) -> None:
        self._title, self._rounds = title, rounds
        self._step = 1 if sys.stdout.isatty() else max(1, rounds // 10)
        self._shown = 0
        self._bar: ProgressBar | None = None

    def __call__(self, done: int, total: int, density: float) -> None:
        """Show that ``done`` of ``total`` rounds are over."""
        if self._bar is None:  # not before there is progress: an error would land on the bar's line
            sys.stdout.write(f'{self._title}, {self._rounds} rounds ')
            self._bar = ProgressBar(self._rounds, bar_width=30)
        if done - self._shown >= self._step or done == total:
            self._bar.update(done - self._shown)
            self._shown = done
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
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
