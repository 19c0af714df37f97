"""Weights that change places in a run: the optimizer Moves gets what it needs of the network."""

import copy

from mmengine.hooks import EMAHook

from ...models import ImageClassifier, initialize_
from ...optim import Moves
from ...registry import HOOKS
from ...run import PabRunner, RunHook
from .rewind import RewindHook


@HOOKS.register_module()
class MovesHook(RunHook):
    """Attach every optimizer :class:`~pab.optim.Moves` of a run to the network; every run has this hook.

    The initial weights are drawn again by the classifier's ``init``, with the run's seed where that has none. At the end
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
                'Moves: weights grow with magnitudes that a seed gives, and init=None leaves them to the network'
            )
        for hook in runner.hooks:
            if isinstance(hook, RewindHook | EMAHook):
                raise ValueError(f'Moves: {type(hook).__name__} needs masks that stay; drop the hook, or take TopFlips')
        seed = runner.seed if init['seed'] is None else init['seed']
        fresh = initialize_(copy.deepcopy(runner.network), init['scheme'], seed, init['fan_share'])
        for optimizer in optimizers:
            optimizer.attach(runner.network, dict(fresh.named_parameters()))
