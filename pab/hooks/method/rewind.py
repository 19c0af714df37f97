"""Lottery tickets: train, prune, go back to the weights of an early step, and train again."""

from fractions import Fraction

import torch
from torch import Tensor

from ...checks import check_ints
from ...pruners import apply_masks_, get_masks
from ...pruners.schedules import exponential
from ...registry import HOOKS
from ...run import PabRunner
from .pruning import PruningHook

SNAPSHOT = 'rewind_to'  # the checkpoint's key, until the last rewinding


@HOOKS.register_module()
class RewindHook(PruningHook):
    r"""Prune the trained network, return the kept weights to their values at an early step, and train again.

    The epochs of the run are C + 1 trainings of equal length, C being ``cycles``. The first one is dense. Before each
    of the others, c = 1..C, the network is pruned to the density :math:`d^{c/C}`, so that every pruning removes the
    same share of the kept weights. Then all parameters and buffers go back to their values after ``rewind_iter`` steps
    of the first training, pruned weights stay 0, and optimizers and averages of the model (EMA) start anew.

    It takes the place of PruneHook. Schedules restart where the config says so, here for four trainings of 40 epochs::

        train_cfg = dict(max_epochs=160)
        param_scheduler = dict(sgd=[dict(type='CosineRestartLR', periods=[40] * 4, restart_weights=[1] * 4, eta_min=0)])
        default_hooks = dict(
            prune=dict(
                _delete_=True, type='RewindHook', pruner=dict(type='Mag', density=0.3), cycles=3, rewind_iter=500
            )
        )

    The values of that step are in every checkpoint up to the last pruning, so that a resumed run is the same. The best
    checkpoint and the best accuracy of the run are those of all trainings, the dense one included.

    Args:
        pruner: config of a pruner in PRUNERS; its density d is that of the last training.
        cycles: C, at least 1; the run's ``max_epochs`` is a multiple of C + 1.
        rewind_iter: how many steps of the first training are kept, from 0, the initial weights; fewer than it has.
            A step is one batch, also where several make one update.
        data: as in :class:`~pab.hooks.PruneHook`.

    Raises:
        ValueError: before anything is trained: as PruneHook does, a length that is not divisible, a ``rewind_iter``
            beyond the first training, or a network or checkpoint that the cycles cannot begin or go on with.

    Source: Frankle and Carbin 2019 (arXiv 1803.03635); rewinding to a step after the first: Frankle et al. 2020
    (arXiv 1912.05671).
    """

    def __init__(self, pruner: dict, cycles: int, rewind_iter: int = 0, data: dict | None = None) -> None:
        check_ints('RewindHook', cycles=cycles)
        check_ints('RewindHook', 0, rewind_iter=rewind_iter)
        super().__init__(pruner, cycles, data)
        self.rewind_iter = rewind_iter
        self._snapshot: dict[str, Tensor] | None = None

    def fit_to(self, max_epochs: int) -> None:
        trainings = self.shots + 1
        if max_epochs % trainings:
            raise ValueError(
                f'RewindHook: max_epochs must be a multiple of cycles + 1, {trainings}, got {max_epochs}; '
                'every training has the same length'
            )
        self.epoch = max_epochs // trainings * self.shots

    def density_after(self, density: Fraction, shot: int) -> Fraction:
        return exponential(density, shot, self.shots)

    def needs_training(self) -> str:
        return 'RewindHook prunes what its trainings leave'

    def before_train(self, runner: PabRunner) -> None:
        """Refuse what would fail later, and keep the weights of the start if they are those to return to."""
        super().before_train(runner)
        steps = self.shot_epochs[0] * len(runner.train_dataloader)
        if self.rewind_iter >= steps:
            raise ValueError(
                f'RewindHook: rewind_iter must be below the steps of the first training, {steps}, got '
                f'{self.rewind_iter}; later ones would have nothing to train again'
            )
        if not runner.resumes and not all(mask.all() for mask in get_masks(runner.network).values()):
            raise ValueError(
                'RewindHook: the first training is dense, but load_from names a pruned network; start from a dense '
                'one, or prune once with PruneHook'
            )
        if self._snapshot is None and self.shots_done < self.shots:
            if runner.iter > self.rewind_iter:
                raise ValueError(
                    f'RewindHook: the checkpoint is of step {runner.iter} and lacks the weights of step '
                    f'{self.rewind_iter}; resume from a checkpoint up to that step, or start anew'
                )
            self._keep(runner, runner.iter)

    def after_train_iter(self, runner: PabRunner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        self._keep(runner, runner.iter + 1)

    def prune(self, runner: PabRunner) -> None:
        """Do the next shot, and go back."""
        super().prune(runner)
        network, tensors = runner.network, _tensors(runner)
        with torch.no_grad():
            for name, value in self._snapshot.items():
                tensors[name].copy_(value)
        apply_masks_(network, get_masks(network))
        runner.model.zero_grad()  # of accumulated passes
        for optimizer in runner.optimizers:
            optimizer.state.clear()
        for hook in runner.hooks:
            if getattr(hook, 'ema_model', None) is not None:
                hook.ema_model.steps.zero_()  # its next step copies the model
        if self.shots_done == self.shots:
            self._snapshot = None
        runner.logger.info(f'Back to the weights of step {self.rewind_iter}')

    def before_save_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        super().before_save_checkpoint(runner, checkpoint)
        if self._snapshot is not None:
            checkpoint[SNAPSHOT] = self._snapshot

    def after_load_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        super().after_load_checkpoint(runner, checkpoint)
        if runner.resumes:
            self._snapshot = checkpoint.get(SNAPSHOT)

    def _keep(self, runner: PabRunner, step: int) -> None:
        """Keep the weights if these are the ones to return to."""
        if step == self.rewind_iter and self.shots_done == 0:
            # of the first process, whose buffers are those of checkpoints too
            # a copy on the CPU, as it is sent to the others
            self._snapshot = runner.on_first_process(
                lambda: {name: value.detach().to('cpu', copy=True) for name, value in _tensors(runner).items()}
            )


def _tensors(runner: PabRunner) -> dict[str, Tensor]:
    """All parameters and buffers of the model, but for its masks."""
    model, masks = runner.bare_model, {id(mask) for mask in get_masks(runner.network).values()}
    return {n: t for n, t in [*model.named_parameters(), *model.named_buffers()] if id(t) not in masks}
