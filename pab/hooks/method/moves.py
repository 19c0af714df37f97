"""Weights that change places in a run: the optimizer Moves gets what it needs of the network."""

import copy

import torch
from mmengine.hooks import EMAHook

from ...contracts import counts_of
from ...models import ImageClassifier, initialize_
from ...optim import Moves
from ...registry import HOOKS
from ...run import PabRunner, RunHook
from .prune import PruneHook
from .rewind import RewindHook


@HOOKS.register_module()
class MovesHook(RunHook):
    """Attach every optimizer :class:`~pab.optim.Moves` of a run to the network; every run has this hook.

    The initial weights are drawn again by the classifier's ``init``, with the run's seed if that has none. At the end
    of an epoch the scalar ``moves/total``, the weights that have changed places so far, goes to message hub and
    visualizer.

    Raises:
        ValueError: before anything is trained: a network whose magnitudes no seed gives, or a hook that needs a mask
            that stays.
    """

    priority = 'HIGH'

    def before_train(self, runner: PabRunner) -> None:
        """Draw the initial weights again, and hand them over."""
        if not (optimizers := [o for o in runner.optimizers if isinstance(o, Moves)]):
            return
        model = runner.bare_model
        init = model.init if isinstance(model, ImageClassifier) else None
        if init is None:
            raise ValueError(
                'Moves: weights grow with the magnitudes that a seed gives, and init=None leaves them to the network; '
                "set model.init=dict(scheme='kaiming_normal'), or take TopFlips"
            )
        refuse_what_needs_masks_that_stay(runner, 'Moves', 'TopFlips')
        seed = runner.seed if init['seed'] is None else init['seed']
        fresh = initialize_(copy.deepcopy(runner.network), init['scheme'], seed, init['fan_share'])
        for optimizer in optimizers:
            optimizer.attach(runner.network, dict(fresh.named_parameters()))

    def after_train_epoch(self, runner: PabRunner) -> None:
        """Report how many weights have moved."""
        if moves := counts_of(runner.optimizers, 'tensor_moves'):
            total = int(torch.stack(list(moves.values())).sum())
            runner.message_hub.update_scalar('moves/total', total)
            runner.visualizer.add_scalars({'moves/total': total}, step=runner.epoch + 1)
            runner.logger.info(f'Epoch {runner.epoch + 1}: {total:,} weights have changed places since the start')


def refuse_what_needs_masks_that_stay(runner: PabRunner, who: str, other: str) -> None:
    """Raise a ValueError for a hook that a changing mask would mislead; ``other`` is a way to train that keeps it."""
    for hook in runner.hooks:
        narrow = isinstance(hook, PruneHook) and hook.narrow
        if narrow or isinstance(hook, RewindHook | EMAHook):
            name = 'narrow=True' if narrow else type(hook).__name__
            raise ValueError(f'{who}: {name} needs masks that stay; leave it out, or take {other}')
