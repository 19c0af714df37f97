"""Prune the network at the start of training, or in several shots over its first epochs."""

from fractions import Fraction

from ...checks import check_ints
from ...pruners.schedules import linear
from ...registry import HOOKS
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

    Raises:
        ValueError: before anything is trained: a setting out of range, an epoch beyond the schedule, a need of the
            pruner that this run cannot meet, or a loaded file that was pruned by another pruner, to another density or
            from another seed.
    """

    def __init__(self, pruner: dict, epoch: int = 0, shots: int = 1, data: dict | None = None) -> None:
        check_ints('PruneHook', 0, epoch=epoch)
        check_ints('PruneHook', shots=shots)
        super().__init__(pruner, shots, data)
        self.epoch = epoch

    def fit_to(self, max_epochs: int) -> None:
        if self.epoch >= max_epochs:
            rule = f'epoch must be below the number of epochs, {max_epochs}, got {self.epoch}'
            raise ValueError(f'PruneHook: {rule}; prune earlier or train longer')

    def density_after(self, density: Fraction, shot: int) -> Fraction:
        return linear(density, shot, self.shots)
