"""What a training costs, added up as it happens."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..costs.count import LayerCost, Work, count_layers, count_weights, pruning_work, step_work
from ..pruners import get_masks
from ..registry import HOOKS
from ..run.checkpoint import wrappers_of
from .parts import need_epochs, network_of, sign_trained
from .prune import PruneHook
from .prune_data import PruneData

STATE = 'costs'  # the checkpoint's key


@HOOKS.register_module()
class CostHook(Hook):
    """Add up the multiply-accumulates and bit-operations of a training, by the formulas of :mod:`pab.costs.count`.

    Every step counts with the weights that are left in its epoch, and so does every pruning that ``PruneHook`` does or
    a file of ``tools/prune.py`` has had. In layers with a weight in use (:mod:`pab.contracts`) the weights that are
    used at the epoch's start count for the whole epoch. Validation does not count. Of several processes all images
    count, and the update, which each of them repeats, once. A resumed run goes on with the sums in its checkpoint.

    ``cost/macs`` and ``cost/bit_operations``, the sums so far, are kept in the message hub and sent to the visualizer
    after every epoch. Nothing is done within an epoch. A run whose costs cannot be counted, such as one whose network
    does not run on torch's meta device, goes on without, after a warning.
    """

    priority = 'ABOVE_NORMAL'  # behind pruning, before the logger, the report and the checkpoint

    def __init__(self) -> None:
        self._layers: list[LayerCost] | None = None
        self._trained, self._pruned = Work(), Work()  # of the epochs before this one; of the prunings
        self._shots = 0  # that are in _pruned
        self._resumed: dict | None = None

    @property
    def work(self) -> Work | None:
        """All of the epochs that are over, by phase; None where it is not counted."""
        return None if self._layers is None else self._trained.plus(self._pruned)

    def before_train(self, runner: Runner) -> None:
        """Count the layers."""
        network = network_of(runner.model)
        with self._or_give_up(runner):
            need_epochs(runner, 'CostHook')
            if runner._resume and self._resumed is None:
                raise ValueError('the checkpoint does not say what the run has cost before')
            shape = PruneData().input_shape(runner)
            self._layers = count_layers(network, shape, get_masks(network), sign_trained(runner))
            self._of_epoch(runner, 1)  # what would fail later fails here

    def before_train_epoch(self, runner: Runner) -> None:
        """Count which weights are left, and the prunings since the epoch before."""
        if self._layers is None:
            return
        network = network_of(runner.model)
        with self._or_give_up(runner):
            self._layers = count_weights(self._layers, network, get_masks(network))
            if self._resumed and runner.iter > runner.epoch * len(runner.train_dataloader):
                # in mid-epoch: weights in use may be others by now
                self._layers = [LayerCost(**row) for row in self._resumed['layers']]
            self._resumed = None
            for hook in (hook for hook in runner.hooks if isinstance(hook, PruneHook)):
                if new := hook.shots_done - self._shots:
                    one = pruning_work(hook.pruner, network, hook.data.input_shape(runner), hook.data.num_samples)
                    self._pruned, self._shots = self._pruned.plus(one.times(new)), hook.shots_done

    def after_train_epoch(self, runner: Runner) -> None:
        """Add the epoch, and report the sums."""
        if self._layers is None:
            return
        self._trained = self._trained.plus(self._of_epoch(runner, len(runner.train_dataloader)))
        scalars = {f'cost/{name}': float(sum(phases.values())) for name, phases in asdict(self.work).items()}
        runner.message_hub.update_scalars(scalars)
        runner.visualizer.add_scalars(scalars, step=runner.epoch + 1)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the sums, and the layers as they count in an epoch that is not over."""
        if self._layers is not None:
            state = {'trained': asdict(self._trained), 'pruned': asdict(self._pruned), 'shots': self._shots}
            checkpoint[STATE] = {**state, 'layers': [asdict(row) for row in self._layers]}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take them up in a resumed run."""
        if runner._resume and STATE in checkpoint:
            self._resumed = state = checkpoint[STATE]
            self._trained, self._pruned = Work(**state['trained']), Work(**state['pruned'])
            self._shots = state['shots']

    def _of_epoch(self, runner: Runner, passes: int) -> Work:
        """The work of the first passes of the epoch."""
        loader, first = runner.train_dataloader, runner.epoch * len(runner.train_dataloader)
        images = min(passes * loader.batch_size, len(loader.sampler)) * runner.world_size
        return step_work(self._layers, images, _updates(runner, first + passes) - _updates(runner, first))

    @contextmanager
    def _or_give_up(self, runner: Runner) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a network can do anything, and no run must fail because somebody looks on
            self._layers = None
            runner.logger.warning(f'The costs of this run are not counted: {error}')


def _updates(runner: Runner, passes: int) -> int:
    """How many updates the first passes of a run make; the last pass of a run makes one in any case."""
    each = wrappers_of(runner.optim_wrapper)[0]._accumulative_counts
    return math.ceil(passes / each) if passes == runner.max_iters else passes // each
