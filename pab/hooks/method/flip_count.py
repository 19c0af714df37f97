"""Sign flips, counted per step and per epoch."""

import torch
from torch import Tensor

from ...pruners import get_masks
from ...registry import HOOKS
from ...run import PabRunner, RunHook


@HOOKS.register_module()
class FlipCountHook(RunHook):
    """Record the sign flips of every step, and report them once an epoch.

    The counts of an epoch's steps are collected on the device and read when the epoch is over, so no step waits for
    the device. The log scalars ``flips/step`` (one value a step), ``flips/epoch``, ``flips/rate`` (flips / (kept
    sign-trained weights * steps)), ``flips/total`` and, where an optimizer has one, ``adaptivity_rate`` are kept in the
    message hub, and so in checkpoints; those of an epoch go to the visualizer too.

    Raises:
        ValueError: a run without an optimizer that flips signs.
    """

    priority = 'ABOVE_NORMAL'
    changes_training = False

    def __init__(self) -> None:
        self._counts: Tensor | None = None
        self._resumed: Tensor | None = None

    def before_train(self, runner: PabRunner) -> None:
        if not runner.sign_optimizers:
            raise ValueError(
                'FlipCountHook: no optimizer of this run flips signs (none has the attribute last_flips); drop the '
                'hook with default_hooks=dict(flips=None)'
            )

    def before_train_epoch(self, runner: PabRunner) -> None:
        device = next(runner.network.parameters()).device
        self._counts = torch.zeros(len(runner.train_dataloader), dtype=torch.int64, device=device)
        if self._resumed is not None:
            self._counts[: len(self._resumed)] = self._resumed.to(device)
            self._resumed = None

    def after_train_iter(self, runner: PabRunner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for optimizer in runner.sign_optimizers:
            if optimizer.last_flips is not None:
                self._counts[batch_idx] += optimizer.last_flips
                optimizer.last_flips = None  # a step that only accumulates gradients flips nothing

    def after_train_epoch(self, runner: PabRunner) -> None:
        """Read the counts, the one time the device is waited for, and report them."""
        steps = self._counts.tolist()
        flips, kept, hub = sum(steps), _kept(runner), runner.message_hub
        rate = flips / max(1, kept * len(steps))
        total = flips + (hub.get_scalar('flips/total').current() if 'flips/total' in hub.log_scalars else 0)
        for count in steps:
            hub.update_scalar('flips/step', count)
        scalars = {'flips/epoch': flips, 'flips/rate': rate, 'flips/total': total}
        text = f'Epoch {runner.epoch + 1}: {flips:,} signs flipped ({rate:.2e} of {kept:,} weights a step), '
        text += f'{int(total):,} since the start'
        if rates := [group['adaptivity_rate'] for group in runner.param_groups if 'adaptivity_rate' in group]:
            scalars['adaptivity_rate'] = rates[0]
            text += f'; adaptivity rate {rates[0]:.3g}'
        hub.update_scalars(scalars)
        runner.visualizer.add_scalars(scalars, step=runner.epoch + 1)
        runner.logger.info(text)

    def before_save_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        """Keep the counts of an epoch that is not over."""
        if self._counts is not None:
            done = checkpoint['meta']['iter'] - checkpoint['meta']['epoch'] * len(runner.train_dataloader)
            checkpoint['flips_of_epoch'] = self._counts[: max(0, done)].cpu()

    def after_load_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        """Take the counts of an epoch that was not over."""
        if runner.resumes:
            self._resumed = checkpoint.get('flips_of_epoch')


def _kept(runner: PabRunner) -> int:
    """Count the kept sign-trained weights."""
    masks = get_masks(runner.network)
    return sum(int(masks[n].sum()) if n in masks else param.numel() for n, param in runner.sign_trained.items())
