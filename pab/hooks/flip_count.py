"""How many signs flip: per step and per epoch."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from ..pruners import get_masks
from ..registry import HOOKS
from .parts import need_epochs, network_of, optimizers_of, sign_optimizers_of


@HOOKS.register_module()
class FlipCountHook(Hook):
    """Record the sign flips of every step, and report them once an epoch.

    The counts of an epoch's steps are collected on the device and read when the epoch is over, so no step waits for
    the device. The log scalars ``flips/step`` (one value a step), ``flips/epoch``, ``flips/rate`` (flips / (kept
    sign-trained weights * steps)), ``flips/total`` and, where an optimizer has one, ``adaptivity_rate`` are kept in the
    message hub, and so in checkpoints; those of an epoch go to the visualizer too.

    Raises:
        ValueError: a run without an optimizer that flips signs, or one whose loop is not over epochs.
    """

    priority = 'ABOVE_NORMAL'  # the epoch's count is there when the logger and the checkpoint ask

    def __init__(self) -> None:
        self._counts: Tensor | None = None
        self._resumed: Tensor | None = None

    def before_train(self, runner: Runner) -> None:
        need_epochs(runner, 'FlipCountHook')
        if not sign_optimizers_of(runner):
            raise ValueError(
                'FlipCountHook: no optimizer of this run flips signs (none has the attribute last_flips); drop the '
                'hook with default_hooks=dict(flips=None)'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        device = next(network_of(runner.model).parameters()).device
        self._counts = torch.zeros(len(runner.train_dataloader), dtype=torch.int64, device=device)
        if self._resumed is not None:
            self._counts[: len(self._resumed)] = self._resumed.to(device)
            self._resumed = None

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for optimizer in sign_optimizers_of(runner):
            if optimizer.last_flips is not None:
                self._counts[batch_idx] += optimizer.last_flips
                optimizer.last_flips = None  # a step that only accumulates gradients flips nothing

    def after_train_epoch(self, runner: Runner) -> None:
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
        groups = [group for optimizer in optimizers_of(runner) for group in optimizer.param_groups]
        if rates := [group['adaptivity_rate'] for group in groups if 'adaptivity_rate' in group]:
            scalars['adaptivity_rate'] = rates[0]
            text += f'; adaptivity rate {rates[0]:.3g}'
        hub.update_scalars(scalars)
        runner.visualizer.add_scalars(scalars, step=runner.epoch + 1)
        runner.logger.info(text)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the counts of an epoch that is not over."""
        if self._counts is not None:
            done = checkpoint['meta']['iter'] - checkpoint['meta']['epoch'] * len(runner.train_dataloader)
            checkpoint['flips_of_epoch'] = self._counts[: max(0, done)].cpu()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the counts of an epoch that was not over."""
        if runner._resume:
            self._resumed = checkpoint.get('flips_of_epoch')


def _kept(runner: Runner) -> int:
    """How many sign-trained weights are left."""
    network = network_of(runner.model)
    masks, names = get_masks(network), {param: name for name, param in network.named_parameters()}
    groups = [group for optimizer in sign_optimizers_of(runner) for group in optimizer.param_groups]
    owned = [(names.get(param), param) for group in groups for param in group['params']]
    return sum(int(masks[name].sum()) if name in masks else param.numel() for name, param in owned)
