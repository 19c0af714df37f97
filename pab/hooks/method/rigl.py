"""RigL: trained weights that change places, by their magnitudes and the gradients of pruned ones."""

import math

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...checks import check_ints
from ...contracts import sign_optimizers, want_pruned_gradients
from ...pruners import get_masks
from ...registry import HOOKS
from ...run import PabRunner, RunHook
from .moves import refuse_what_needs_masks_that_stay


@HOOKS.register_module()
class RigLHook(RunHook):
    r"""Let the smallest kept weights of every tensor leave, every few steps, and others grow by the largest gradients.

    Before step t, counted from 0, of a tensor with n kept weights the whole part of

    .. math:: \tfrac{n\, r}{2} \left(1 + \cos \frac{\pi t}{e\, T}\right)

    with the smallest magnitudes leave: weight, gradient and momentum are 0 from now on. The same number grow, of the
    pruned weights and of those that leave the ones whose gradient is largest. They start at 0, and the step moves them;
    one that would leave and grow stays as it is. This happens at multiples of ``every_steps`` above 0 and below e T, T
    being the steps of the run. Every tensor keeps its number of weights.

    Any optimizer with one gradient for each weight can train the weights. At such a step the gradient of pruned weights
    is computed too; it counts in the norm by which gradients are clipped, and ``CostHook`` does not count it.

    Args:
        every_steps: at least 1.
        share: r, the share of the kept weights at the start; in (0, 1], else ValueError.
        until: e, the share of the training in which weights move; in (0, 1], else ValueError.

    Raises:
        ValueError: before anything is trained: a hook that needs masks that stay, no masks, or masks of weights that no
            optimizer trains, or one that flips signs.

    Source: Evci et al. 2020 (arXiv 1911.11134), whose code leaves out the step of the optimizer when weights move.
    """

    priority = 'HIGH'

    def __init__(self, every_steps: int = 100, share: float = 0.3, until: float = 0.75) -> None:
        check_ints('RigLHook', every_steps=every_steps)
        for name, value in (('share', share), ('until', until)):
            if isinstance(value, bool) or not 0 < value <= 1:
                raise ValueError(f'RigLHook: {name} must lie in (0, 1], got {value!r}')
        self.every_steps, self.share, self.until = every_steps, share, until
        self._moving = 0.0  # the share of the step that is being made
        self._handles = []

    def before_train(self, runner: PabRunner) -> None:
        """Find who trains the masked weights, and be called before its steps."""
        refuse_what_needs_masks_that_stay(runner, 'RigLHook', 'a fixed mask')
        if not (masks := get_masks(runner.network)):
            raise ValueError('RigLHook: the network has no masks; prune it by PruneHook')
        optimizers = [o for o in runner.optimizers if not sign_optimizers([o])]
        trained = {param for o in optimizers for group in o.param_groups for param in group['params']}
        for name in masks:
            if (param := runner.network.get_parameter(name)) not in trained:
                raise ValueError(
                    f'RigLHook: {name} has a mask, and no optimizer trains its magnitudes; give it to SGD, or leave it '
                    'out of prunable (signs change places by the optimizer Moves)'
                )
            want_pruned_gradients(param, lambda: self._moving > 0)
        self._handles = [o.register_step_pre_hook(lambda o, *_: self._move(runner, o)) for o in optimizers]

    def before_train_iter(self, runner: PabRunner, batch_idx: int, data_batch=None) -> None:
        """Decide whether weights move in the step that this pass belongs to."""
        step, end = runner.iter // runner.passes_per_update, self.until * runner.max_iters / runner.passes_per_update
        due = 0 < step < end and step % self.every_steps == 0
        self._moving = self.share / 2 * (1 + math.cos(math.pi * step / end)) if due else 0.0

    def after_train_iter(self, runner: PabRunner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._moving = 0.0

    def after_exit(self, runner: PabRunner) -> None:
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _move(self, runner: PabRunner, optimizer: Optimizer) -> None:
        if not self._moving:
            return
        own = {param for group in optimizer.param_groups for param in group['params'] if param.grad is not None}
        leaving = 0
        for name, mask in get_masks(runner.network).items():
            if (param := runner.network.get_parameter(name)) in own:
                count = int(self._moving * int(mask.sum()))
                leaving += count
                mask.copy_(moved(mask, param, param.grad, count))
                for tensor in (param, param.grad, *optimizer.state.get(param, {}).values()):
                    if isinstance(tensor, Tensor) and tensor.shape == param.shape:
                        tensor.masked_fill_(~mask, 0)
        if leaving:
            runner.logger.info(f'RigL: the {leaving:,} smallest weights leave, and as many grow')


def moved(mask: Tensor, weight: Tensor, grad: Tensor, count: int) -> Tensor:
    """A mask like ``mask``, without the ``count`` smallest weights, with as many of the largest gradients elsewhere."""
    stays, sizes = mask.flatten().clone(), weight.abs().flatten()  # copies, in the order of entries
    stays[sizes.masked_fill(~stays, torch.inf).topk(count, largest=False).indices] = False
    grows = grad.abs().flatten().masked_fill(stays, -1).topk(count).indices
    return stays.index_fill(0, grows, True).view(mask.shape)
