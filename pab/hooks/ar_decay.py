"""Lower Bop's adaptivity rate as training goes on."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import HOOKS
from .parts import bops_of, need_epochs

TIMINGS = ('after', 'before')


@HOOKS.register_module()
class ARDecayHook(Hook):
    r"""Multiply the adaptivity rate of every Bop by ``gamma`` each ``interval`` epochs.

    With K = ``interval`` and epochs counted from 1, epoch e runs at :math:`\gamma_0 \cdot \text{gamma}^n` with
    :math:`n = \lfloor (e-1)/K \rfloor` for timing 'after' (the rate falls once the K-th epoch is over, as in the
    reference's CIFAR script) and :math:`n = \lfloor e/K \rfloor` for 'before' (the K-th epoch already runs at the lower
    rate, as in its ImageNet script). The rate follows from the epoch alone, so resuming cannot apply a decay twice.

    Args:
        interval: epochs between decays; an integer >= 1.
        gamma: the factor; in (0, 1].
        timing: 'after' or 'before' the interval's last epoch.

    Raises:
        ValueError: a value outside its range, a run without Bop, or one whose loop is not over epochs.
    """

    priority = 'HIGH'

    def __init__(self, interval: int = 45, gamma: float = 0.15, timing: str = 'after') -> None:
        if type(interval) is not int or interval < 1:
            raise ValueError(f'ARDecayHook: interval must be an integer of epochs >= 1, got {interval!r}')
        if not 0 < gamma <= 1:
            raise ValueError(f'ARDecayHook: gamma must lie in (0, 1], got {gamma!r}; 1 keeps the rate')
        if timing not in TIMINGS:
            raise ValueError(f'ARDecayHook: timing must be one of {TIMINGS}, got {timing!r}')
        self.interval = interval
        self.gamma = gamma
        self.timing = timing

    def before_train(self, runner: Runner) -> None:
        """Refuse a run in which there is nothing to decay."""
        need_epochs(runner, 'ARDecayHook')
        if not bops_of(runner):
            raise ValueError(
                'ARDecayHook: no optimizer of this run is a Bop, so there is no adaptivity rate to decay; drop the '
                'hook with default_hooks=dict(ar_decay=None)'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the rate of the epoch to come."""
        decays = self.decays(runner.epoch)
        for bop in bops_of(runner):
            for group in bop.param_groups:
                first = group.setdefault('initial_adaptivity_rate', group['adaptivity_rate'])
                group['adaptivity_rate'] = first * self.gamma**decays

    def decays(self, epoch: int) -> int:
        """How many decays lie before an epoch, which is counted from 0 here."""
        return (epoch + (self.timing == 'before')) // self.interval
