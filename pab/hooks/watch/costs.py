"""The costs of a training, added up as it goes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from ...costs.count import LayerCost, Work, count_layers, count_weights, pruning_work, step_work
from ...pruners import get_masks
from ...registry import HOOKS
from ...run import PabRunner, RunHook
from ..method.prune_data import PruneData
from ..method.pruning import PruningHook

KEY = 'costs'  # the checkpoint's key


@HOOKS.register_module()
class CostHook(RunHook):
    """Add up the multiply-accumulates and bit-operations of a training, by the formulas of :mod:`pab.costs.count`.

    Every step counts with the kept weights of its epoch, and so does every pruning by a hook or of a file of
    ``pab prune``. In layers with a used weight (:mod:`pab.contracts`) the weights that are used at the epoch's
    start count for the whole epoch. Validation does not count. Of several processes all images count, and the update,
    which each of them repeats, once. A resumed run goes on with the sums in its checkpoint.

    ``cost/macs`` and ``cost/bit_operations``, the sums so far, are kept in the message hub and sent to the visualizer
    after every epoch. Nothing is done within an epoch. A run whose costs cannot be counted, such as one whose network
    does not run on torch's meta device, goes on without, after a warning.
    """

    priority = 'ABOVE_NORMAL'
    changes_training = False

    def __init__(self) -> None:
        self._layers: list[LayerCost] | None = None
        self._trained, self._pruned = Work(), Work()  # of the epochs before this one; of the prunings
        self._shots = 0  # that are in _pruned
        self._resumed: dict | None = None

    @property
    def work(self) -> Work | None:
        """All of the epochs that are over, by phase; None where it is not counted."""
        return None if self._layers is None else self._trained.plus(self._pruned)

    def before_train(self, runner: PabRunner) -> None:
        network = runner.network
        with self._or_give_up(runner):
            if runner.resumes and self._resumed is None:
                raise ValueError('the checkpoint does not say what the run has cost before')
            shape = PruneData().input_shape(runner)
            self._layers = count_layers(network, shape, get_masks(network), runner.sign_trained)
            self._of_epoch(runner, 1)  # what would fail later fails here

    def before_train_epoch(self, runner: PabRunner) -> None:
        """Count the kept weights, and the prunings since the epoch before."""
        if self._layers is None:
            return
        network = runner.network
        with self._or_give_up(runner):
            self._layers = count_weights(self._layers, network, get_masks(network))
            if self._resumed and runner.iter > runner.epoch * len(runner.train_dataloader):
                # in mid-epoch: used weights may be others by now
                self._layers = [LayerCost(**row) for row in self._resumed['layers']]
            self._resumed = None
            for hook in (hook for hook in runner.hooks if isinstance(hook, PruningHook)):
                if new := hook.shots_done - self._shots:
                    one = pruning_work(hook.pruner, network, hook.data.input_shape(runner), hook.data.num_samples)
                    for _ in range(new):
                        self._pruned = self._pruned.plus(one)
                    self._shots = hook.shots_done

    def after_train_epoch(self, runner: PabRunner) -> None:
        """Add the epoch, and report the sums."""
        if self._layers is None:
            return
        self._trained = self._trained.plus(self._of_epoch(runner, len(runner.train_dataloader)))
        scalars = {f'cost/{name}': float(sum(phases.values())) for name, phases in asdict(self.work).items()}
        runner.message_hub.update_scalars(scalars)
        runner.visualizer.add_scalars(scalars, step=runner.epoch + 1)

    def before_save_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        """Keep the sums, and the layers as they count in an epoch that is not over."""
        if self._layers is not None:
            state = {'trained': asdict(self._trained), 'pruned': asdict(self._pruned), 'shots': self._shots}
            checkpoint[KEY] = {**state, 'layers': [asdict(row) for row in self._layers]}

    def after_load_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        if runner.resumes and KEY in checkpoint:
            self._resumed = state = checkpoint[KEY]
            self._trained, self._pruned = Work(**state['trained']), Work(**state['pruned'])
            self._shots = state['shots']

    def _of_epoch(self, runner: PabRunner, passes: int) -> Work:
        """The work of the first passes of the epoch."""
        loader, first = runner.train_dataloader, runner.epoch * len(runner.train_dataloader)
        images = min(passes * loader.batch_size, len(loader.sampler)) * runner.world_size
        return step_work(self._layers, images, _updates(runner, first + passes) - _updates(runner, first))

    @contextmanager
    def _or_give_up(self, runner: PabRunner) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a network can do anything, and no run must fail because somebody looks on
            self._layers = None
            runner.logger.warning(f'The costs of this run are not counted: {error}')


def _updates(runner: PabRunner, passes: int) -> int:
    """Count the updates of the first passes of a run; the last pass of a run makes one in any case."""
    each = runner.passes_per_update
    return math.ceil(passes / each) if passes == runner.max_iters else passes // each
