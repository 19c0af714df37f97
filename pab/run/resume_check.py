"""Refuse to go on with a run on other settings than it was started with, unless told to."""

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import HOOKS
from .plain import to_plain

KEY = 'settings'  # of a checkpoint
SECTIONS = (
    'model',
    'data_preprocessor',
    'train_dataloader',
    'train_cfg',
    'optim_wrapper',
    'param_scheduler',
    'auto_scale_lr',
    'custom_hooks',
)
# Hooks that record, report or save: a run is the same with others. Every hook that is not listed here matters.
OBSERVERS = {
    'checkpoint',
    'divergence',
    'flips',
    'interrupt',
    'logger',
    'report',
    'resume_check',
    'runtime_info',
    'statistics',
    'timer',
    'visualization',
}
# Where a run gets its data from and how fast, and when it is validated, changes none of its numbers.
FREE = {
    'data_root',
    'foreach',
    'num_workers',
    'persistent_workers',
    'pin_memory',
    'prefetch_factor',
    'val_begin',
    'val_interval',
}
# What a scheduler's state has of the run's progress; the rest of it are settings.
PROGRESS = {'last_step', '_global_step', '_last_value', 'best', 'num_bad_epochs', 'cooldown_counter'}


@HOOKS.register_module()
class ResumeCheckHook(Hook):
    """Compare the settings in a checkpoint with the config that would resume it, and refuse where they differ.

    Compared is what a result depends on: model, masks, seed, data, optimizers, schedule and number of processes.
    Paths, logging, validation and the number of loader workers may change at any time.

    Args:
        allow_changes: go on with what the config says now: also where the checkpoint holds the old value of an
            optimizer's or a schedule's setting. The differences are a warning then.

    Raises:
        ValueError: lists what differs.
    """

    def __init__(self, allow_changes: bool = False) -> None:
        if not isinstance(allow_changes, bool):
            raise TypeError(f'ResumeCheckHook: allow_changes must be True or False, got {allow_changes!r}')
        self.allow_changes = allow_changes

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write the settings."""
        checkpoint[KEY] = settings_of(runner)

    def check_resume(self, runner: Runner, checkpoint: dict) -> None:
        """Compare them."""
        if KEY not in checkpoint:
            runner.logger.warning(
                'The checkpoint does not say with which settings it was trained; they are not compared'
            )
            return
        before, here = flatten(checkpoint[KEY]), flatten(settings_of(runner))
        if runner._randomness_cfg.get('seed') is None:
            here['seed'] = before.get('seed')  # left open, so it is the checkpoint's
        changes = differences(before, here)
        if not changes:
            return
        listed = '\n'.join(
            f'  {name}: {_shown(old)} in the checkpoint, {_shown(new)} now' for name, old, new in changes
        )
        if not self.allow_changes:
            raise ValueError(
                f'resume: the config is not the one the checkpoint was trained with:\n{listed}\nResume with the old '
                'settings, start anew in another --work-dir, or go on with the new ones by --allow-changes'
            )
        runner.logger.warning(f'Resumed with other settings, as allowed:\n{listed}')
        self._apply(checkpoint, changes)

    @staticmethod
    def _apply(checkpoint: dict, changes: list[tuple[str, Any, Any]]) -> None:
        """Take old settings out of the state of optimizers and schedulers, which would overrule the config."""
        groups = checkpoint.get('param_schedulers', {})
        for group in groups.values() if isinstance(groups, dict) else [groups]:
            group[:] = [{key: value for key, value in state.items() if key in PROGRESS} for state in group]
        for name, old, new in changes:
            if name.startswith('param_scheduler') and (MISSING in (old, new) or name.endswith(('.type', '.by_epoch'))):
                raise ValueError(
                    f'resume: {name} cannot change in mid-run ({_shown(old)} in the checkpoint, {_shown(new)} now); '
                    'schedules keep their number, their types and their units, and other values may change'
                )
            path = name.split('.')
            if path[:2] != ['optim_wrapper', 'optimizers'] or len(path) != 4 or MISSING in (old, new):
                continue
            for group in checkpoint.get('optimizer', {}).get(path[2], {}).get('param_groups', []):
                _change_group(group, path[3], old, new)


class _Missing:
    def __repr__(self) -> str:
        return 'nothing'


MISSING = _Missing()


def settings_of(runner: Runner) -> dict:
    """The settings of a run that its result depends on, as plain data."""
    cfg = runner.cfg
    settings = {name: copy.deepcopy(cfg[name]) for name in SECTIONS if cfg.get(name) is not None}
    hooks = cfg.get('default_hooks') or {}
    settings['default_hooks'] = {name: hook for name, hook in hooks.items() if name not in OBSERVERS and hook}
    seed = runner._randomness_cfg.get('seed')
    settings['seed'] = runner.seed if seed is None else seed
    settings['processes'] = runner.world_size
    return to_plain(settings, KEY, [])


def flatten(settings: Any, name: str = '') -> dict[str, Any]:
    """The leaves of nested settings by their dotted names; lists of dicts are nested too."""
    if isinstance(settings, Mapping):
        items = [(f'{name}.{key}' if name else str(key), value) for key, value in settings.items() if key not in FREE]
    elif isinstance(settings, (list, tuple)) and any(isinstance(item, Mapping) for item in settings):
        items = [(f'{name}[{index}]', value) for index, value in enumerate(settings)]
    else:
        return {name: list(settings) if isinstance(settings, tuple) else settings}
    leaves: dict[str, Any] = {}
    for key, value in items:
        leaves.update(flatten(value, key))
    return leaves


def differences(before: dict[str, Any], here: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, old, new) for every leaf that differs, in the order of names."""
    names = sorted({*before, *here})
    pairs = [(name, before.get(name, MISSING), here.get(name, MISSING)) for name in names]
    return [(name, old, new) for name, old, new in pairs if repr(old) != repr(new)]


def _change_group(group: dict[str, Any], key: str, old: Any, new: Any) -> None:
    if key not in group:
        return
    first = f'initial_{key}'
    if first in group:  # a schedule has moved it since
        group[key] = group[key] * new / old if old else new
        group[first] = new
    else:
        group[key] = new


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
