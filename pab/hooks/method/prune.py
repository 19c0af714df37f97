"""Prune the network at the start of training, or in several shots over its first epochs."""

from fractions import Fraction

from mmengine.model import is_model_wrapper
from torch import nn

from ...checks import check_ints
from ...costs.count import LayerCost, count_layers
from ...costs.narrow import cut_sizes, describe_narrowing
from ...narrowing import TrainedPart, find_cuts
from ...pruners import get_masks
from ...pruners.schedules import linear
from ...registry import HOOKS
from ...run import PabRunner
from .pruning import PruningHook


@HOOKS.register_module()
class PruneHook(PruningHook):
    r"""Score the network, mask it, and keep a record of it in every checkpoint.

    Shot s of S (from 1) happens before the epoch with index :math:`\lfloor s E / S \rfloor`, E being ``epoch``, with
    density :math:`1 - (1 - d) s / S`, also for a density by layer; with one shot and
    ``epoch=0`` that is before training. Every shot happens, also where several fall on one epoch. The masks are
    computed by the first process and sent to the others. After a resume, and after ``load_from`` of a file that
    ``pab prune`` wrote, what is pruned already is not pruned again.

    Args:
        pruner: config of a pruner in PRUNERS.
        epoch: the epoch before which the last shot happens, from 0; below the run's number of epochs.
        shots: S, at least 1.
        data: ``dict(num_samples=100, batch_size=100)``: how many training images, drawn by the run's seed and not
            augmented, a pruner that reads data is shown. None for the defaults.
        narrow: train without the channels that no kept weight reads (:mod:`pab.narrowing.channels`), behind the last
            shot. The network is smaller within an epoch only: checkpoints, validations and other hooks see all of it.
            What is left out does not change, weight decay included. Optimizers that look at one weight at a time lead
            to the same networks as without, up to rounding; TopFlips ranks another part of very large tensors.

    Raises:
        ValueError: before anything is trained: a setting out of range, an epoch beyond the schedule, a need of the
            pruner that this run cannot meet, or a loaded file that was pruned by another pruner, to another density or
            from another seed.
    """

    def __init__(
        self, pruner: dict, epoch: int = 0, shots: int = 1, data: dict | None = None, narrow: bool = False
    ) -> None:
        check_ints('PruneHook', 0, epoch=epoch)
        check_ints('PruneHook', shots=shots)
        super().__init__(pruner, shots, data)
        self.epoch, self.narrow = epoch, narrow
        self._part: TrainedPart | None = None

    def fit_to(self, max_epochs: int) -> None:
        if self.epoch >= max_epochs:
            rule = f'epoch must be below the number of epochs, {max_epochs}, got {self.epoch}'
            raise ValueError(f'PruneHook: {rule}; prune earlier or train longer')

    def density_after(self, density: Fraction, shot: int) -> Fraction:
        return linear(density, shot, self.shots)

    def before_train(self, runner: PabRunner) -> None:
        """Refuse what a shot would refuse at its epoch, and what needs all channels in every step."""
        super().before_train(runner)
        if not self.narrow:
            return
        others = [type(hook).__name__ for hook in runner.hooks if isinstance(hook, PruningHook) and hook is not self]
        others += [type(hook).__name__ for hook in runner.hooks if hasattr(hook, 'ema_model')]
        others += [type(runner.model).__name__] if is_model_wrapper(runner.model) else []
        if others:
            raise ValueError(f'PruneHook: narrow=True does not go with {", ".join(others)}; set narrow=False')
        if self.epoch:  # one that cannot be followed is found out before work is lost
            find_cuts(runner.network, self.data.input_shape(runner), get_masks(runner.network))

    def before_train_iter(self, runner: PabRunner, batch_idx: int, data_batch=None) -> None:
        """Leave out the channels that nothing reads, once the last shot is over."""
        if not self.narrow or self.shots_done < self.shots:
            return
        if self._part is None:
            network, shape = runner.network, self.data.input_shape(runner)
            cuts = find_cuts(network, shape, get_masks(network))
            layers = _count(network, shape, 'does not run on the meta device, which counts its layers')
            runner.logger.info(f'Narrow training: {describe_narrowing(layers, cut_sizes(layers, cuts))}')
            self._part = TrainedPart(network, cuts)
            self._part.enter(runner.optimizers)
            _count(network, shape, 'takes no smaller layers in its forward pass')
        self._part.enter(runner.optimizers)

    def _leave(self, runner: PabRunner, *_args, **_kwargs) -> None:
        if self._part is not None:
            self._part.leave()

    before_checkpoint = after_train_epoch = before_val_epoch = after_exit = _leave


def _count(network: nn.Module, shape: tuple[int, ...], problem: str) -> list[LayerCost]:
    """Count the layers of a network; a ValueError with the problem where its forward pass does not run."""
    try:
        return count_layers(network, shape)
    except Exception as error:  # a forward pass can do anything
        raise ValueError(
            f'PruneHook: narrow=True: {type(network).__name__} {problem}: {error}; set narrow=False'
        ) from error
