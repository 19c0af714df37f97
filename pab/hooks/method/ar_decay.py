"""Lower the adaptivity rate as training goes on."""

from mmengine.optim import MultiStepParamScheduler, OptimWrapper, OptimWrapperDict

from ...checks import check_ints, known_choice
from ...registry import HOOKS
from ...run import PabRunner, RunHook

RATE = 'adaptivity_rate'
DROP = 'drop the hook with default_hooks=dict(ar_decay=None)'


@HOOKS.register_module()
class ARDecayHook(RunHook):
    r"""Multiply the adaptivity rate of every sign optimizer by ``gamma`` each ``interval`` epochs.

    With K = ``interval``, the set rate r_0 and epochs counted from 1, epoch e runs at :math:`r_0 \cdot \text{gamma}^n`
    with :math:`n = \lfloor (e-1)/K \rfloor` for timing 'after' (the rate falls once the K-th epoch is over, as in the
    reference's CIFAR script) and :math:`n = \lfloor e/K \rfloor` for 'before' (the K-th epoch already runs at the lower
    rate, as in its ImageNet script).

    The hook adds mmengine's ``MultiStepParamScheduler`` to the optimizer's schedulers, whose state is in every
    checkpoint. For another course drop the hook (``default_hooks=dict(ar_decay=None)``) and name a scheduler in the
    config, such as ``param_scheduler=dict(signs=[dict(type='ExponentialParamScheduler', param_name='adaptivity_rate',
    gamma=0.97)], ...)``; every scheduler of mmengine can move the adaptivity rate or the threshold.

    Args:
        interval: epochs between decays; an integer >= 1.
        gamma: the factor, by the name that mmengine's schedulers give it; in (0, 1].
        timing: 'after' or 'before' the interval's last epoch.

    Raises:
        ValueError: a value outside its range, a run without an adaptivity rate, or one in which a scheduler of the
            config moves the rate too.
    """

    priority = 'HIGH'

    def __init__(self, interval: int = 45, gamma: float = 0.15, timing: str = 'after') -> None:
        check_ints('ARDecayHook', interval=interval)
        known_choice('ARDecayHook', 'timing', timing, ('after', 'before'))
        if not 0 < gamma <= 1:
            raise ValueError(f'ARDecayHook: gamma must lie in (0, 1], got {gamma!r}; 1 keeps the rate')
        self.interval, self.gamma, self.timing = interval, gamma, timing
        self._added = False

    def before_run(self, runner: PabRunner) -> None:
        """Add the schedulers, before a checkpoint restores their state."""
        if self._added or not runner.trains:
            return
        wrappers = runner.optim_wrapper if isinstance(runner.optim_wrapper, OptimWrapperDict) else {}
        having = {name: wrapper for name, wrapper in wrappers.items() if RATE in wrapper.optimizer.defaults}
        if not having:
            raise ValueError(f'ARDecayHook: no optimizer of this run has an adaptivity rate to decay; {DROP}')
        runner.param_schedulers = runner.param_schedulers or {name: [] for name, _ in wrappers.items()}
        for name, wrapper in having.items():
            schedulers = runner.param_schedulers[name]
            if any(scheduler.param_name == RATE for scheduler in schedulers):
                raise ValueError(f'ARDecayHook: param_scheduler.{name} moves the adaptivity rate too; {DROP}')
            schedulers.append(self.scheduler(wrapper, runner.max_epochs))
        self._added = True

    def scheduler(self, wrapper: OptimWrapper, max_epochs: int) -> MultiStepParamScheduler:
        """The scheduler that lowers the rate of an optimizer in a run of ``max_epochs``."""
        first = self.interval - (self.timing == 'before')  # the first epoch, from 0, that runs at a lower rate
        milestones = list(range(first, max_epochs + 1, self.interval))
        return MultiStepParamScheduler(wrapper, RATE, milestones=milestones, gamma=self.gamma)
