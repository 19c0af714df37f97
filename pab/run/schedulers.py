"""Schedulers of a resumed run whose settings changed: at every step the value of an uninterrupted run."""

import copy
import warnings
from collections.abc import Iterable
from typing import Any

from mmengine.optim import BaseOptimWrapper, _ParamScheduler

# What a scheduler's state has of the run's progress; the rest of it are settings.
PROGRESS = {'last_step', '_global_step', '_last_value', 'best', 'num_bad_epochs', 'cooldown_counter'}


class Schedulers:
    """The schedules of a run as its config builds them, kept while a checkpoint is loaded over them.

    Args:
        wrappers: the run's optimizers; every scheduler moves a number in the groups of one of them.
        schedulers: those of all optimizers, as built, none of them stepped.
    """

    def __init__(self, wrappers: Iterable[BaseOptimWrapper], schedulers: Iterable[_ParamScheduler]) -> None:
        self._wrappers, self._schedulers = list(wrappers), list(schedulers)
        self._states = [_state(scheduler) for scheduler in self._schedulers]
        self._groups = [[{**group} for group in wrapper.param_groups] for wrapper in self._wrappers]

    def settle(self, epochs: int, iters: int, epoch_length: int, dropped: bool = False) -> list[str]:
        """Replay every schedule that a checkpoint left at another place than the config asks for.

        mmengine's schedulers compute a value from the one before, so a state that other settings led to goes on from a
        wrong place. A schedule of other settings, or one that has seen another number of steps, starts anew here and
        takes all of its steps in the order of a run. Schedules that read validation results cannot be replayed; they
        and others that move the same number keep their state.

        Args:
            epochs: that the run has finished.
            iters: that the run has finished, in today's steps.
            epoch_length: steps of an epoch.
            dropped: whether the checkpoint has schedules in places where the config has none any more.

        Returns:
            A sentence for each number that was replayed.
        """
        told = []
        built = list(zip(self._schedulers, self._states, strict=True))
        for wrapper, fresh in zip(self._wrappers, self._groups, strict=True):
            keys = {key.removeprefix('initial_') for g in wrapper.param_groups for key in g if 'initial_' in key}
            own = [(one, state) for one, state in built if one.optimizer is wrapper]
            # a loaded scheduler has the param_name of the one that was in its place
            for key in sorted(keys | {state['param_name'] for _, state in own}):
                schedule = [(one, state) for one, state in own if state['param_name'] == key]
                is_new = any(f'initial_{key}' not in group for group in wrapper.param_groups)
                if any(hasattr(scheduler, 'need_val_args') for scheduler, _ in schedule):
                    _keep_progress(schedule)
                elif dropped or not schedule or is_new or any(_changed(*one, epochs, iters) for one in schedule):
                    self._restart(wrapper, key, fresh, schedule)
                    _replay([scheduler for scheduler, _ in schedule], epochs, iters, epoch_length)
                    shown = 'betas' if key == 'momentum' and 'betas' in fresh[0] else key
                    value = wrapper.param_groups[0][shown]
                    value = f'{value:.4g}' if shown == key else value
                    told.append(f'{shown}: {value}, by the config as it is now')
        return told

    @staticmethod
    def _restart(wrapper: BaseOptimWrapper, key: str, fresh: list[dict], schedule: list) -> None:
        for group, built in zip(wrapper.param_groups, fresh, strict=True):
            names = [key, *(f'{kind}_{key}' for kind in ('initial', 'max', 'min'))]  # OneCycleLR's peak and end
            for name in (*names, 'betas') if key == 'momentum' else names:  # Adam's betas hold its momentum
                group.pop(name, None)
                if name in built:
                    group[name] = built[name]
        for scheduler, state in schedule:
            scheduler.__dict__ = {'optimizer': wrapper, **copy.deepcopy(state)}


def _state(scheduler: _ParamScheduler) -> dict[str, Any]:
    return {key: copy.deepcopy(value) for key, value in vars(scheduler).items() if key != 'optimizer'}


def _settings(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key not in PROGRESS}


def _changed(scheduler: _ParamScheduler, built: dict[str, Any], epochs: int, iters: int) -> bool:
    """Tell if a loaded schedule has other settings than it was built with, or has not seen the steps of the run."""
    loaded, steps = _state(scheduler), epochs if scheduler.by_epoch else iters
    return _settings(loaded) != _settings(built) or loaded['_global_step'] != steps


def _keep_progress(schedule: list[tuple[_ParamScheduler, dict[str, Any]]]) -> None:
    for scheduler, built in schedule:
        if set(vars(scheduler)) != {*built, 'optimizer'}:
            raise ValueError(
                f'resume: the schedules of {scheduler.param_name} cannot change their types or number in mid-run, '
                f'because {type(scheduler).__name__} goes by the validations so far'
            )
        vars(scheduler).update(copy.deepcopy(_settings(built)))


def _replay(schedule: list[_ParamScheduler], epochs: int, iters: int, epoch_length: int) -> None:
    """Take the steps of a run, in its order: after each iteration, and after the last one of each epoch."""
    by_step = [scheduler for scheduler in schedule if not scheduler.by_epoch]
    by_epoch = [scheduler for scheduler in schedule if scheduler.by_epoch]
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Detected call of `scheduler.step')  # no optimizer steps here
        for epoch in range(epochs + 1):
            for _ in range(min(epoch_length, iters - epoch * epoch_length) if by_step else 0):
                for scheduler in by_step:
                    scheduler.step()
            for scheduler in by_epoch if epoch < epochs else ():
                scheduler.step()
