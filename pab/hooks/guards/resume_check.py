"""Refuse to go on with a run on other settings than it was started with, unless told to."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from mmengine.hooks import CheckpointHook, IterTimerHook, LoggerHook, NaiveVisualizationHook, RuntimeInfoHook

from ...registry import HOOKS
from ...run import PabRunner, RunHook
from ...run.checkpoint import to_plain
from ...run.distributed import leaves, wrapper_settings
from ...state_dicts import SETTINGS

# Globs over the dotted names of settings and groups that may change at any time: the training computes the same.
MAY_CHANGE = [
    *(
        'work_dir',
        'load_from',
        'new_head',
        'resume',
        'overwrite',
        '*.data_root',
        'model.weights',
        'custom_imports',
    ),  # where things are
    *('launcher', 'runner_type', 'default_scope', 'env_cfg', 'model_wrapper_cfg.device_ids', '_*'),  # how it is started
    *(f'*.{name}' for name in ('num_workers', 'persistent_workers', 'pin_memory', 'prefetch_factor')),  # its speed
    *('*.foreach', '*.dataset.device'),
    *('val_*', 'test_*', 'train_cfg.val_*', 'train_cfg.dynamic_intervals'),  # what is measured
    *('log_*', 'experiment_name', 'visualizer'),  # what is shown
]
LOOK_ON = (CheckpointHook, IterTimerHook, LoggerHook, NaiveVisualizationHook, RuntimeInfoHook)
"""mmengine's hooks that change no training; pab's own say so by ``changes_training``."""
MISSING = type('Missing', (), {'__repr__': lambda _: 'nothing'})()


@HOOKS.register_module()
class ResumeCheckHook(RunHook):
    """Compare the config in a checkpoint with the one that would resume it, and refuse where they differ.

    Everything counts but paths, logging, validation and the like (``MAY_CHANGE``), and hooks that change no training.

    Args:
        allow_changes: go on with what the config says now, for optimizers and schedules too, with a warning; otherwise
            a ValueError lists what differs.
    """

    changes_training = False

    def __init__(self, allow_changes: bool = False) -> None:
        self.allow_changes = allow_changes

    def before_save_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        """Write the settings."""
        checkpoint[SETTINGS] = settings_of(runner)

    def check_resume(self, runner: PabRunner, checkpoint: dict) -> None:
        """Compare them."""
        if SETTINGS not in checkpoint:
            runner.logger.warning('The checkpoint does not say with which settings it was trained')
            return
        before, here = flatten(checkpoint[SETTINGS]), flatten(settings_of(runner))
        if runner.seed_is_open:
            here['randomness.seed'] = before.get('randomness.seed')  # left open, so it is the checkpoint's
        changes = differences(before, here)
        if not changes:
            return
        listed = '\n'.join(f'  {name}: {_change(old, new)}' for name, old, new in changes)
        if not self.allow_changes:
            raise ValueError(
                f'resume: the config is not the one the checkpoint was trained with:\n{listed}\nResume with the old '
                'settings, start anew in another --work-dir, or go on with the new ones by --allow-changes'
            )
        runner.logger.warning(f'Resumed with other settings, as allowed:\n{listed}')
        changed = {name.rpartition('.')[2] for name, _, _ in changes}
        _settle_optimizers(checkpoint['optimizer'], runner.optim_wrapper.state_dict(), changed)


def settings_of(runner: PabRunner) -> dict:
    """The config of a run as plain data, with the seed, the number of processes and the wrapper of the model."""
    settings = to_plain(dict(runner.cfg), SETTINGS, [])
    settings['default_hooks'] = {name: hook for name, hook in (settings.get('default_hooks') or {}).items() if hook}
    settings['randomness'] = {**(settings.get('randomness') or {}), 'seed': runner.seed}
    settings['processes'] = runner.world_size
    settings['model_wrapper_cfg'] = wrapper_settings(settings)  # spelt out, as a run on the CPU has to
    settings.pop('find_unused_parameters', None)
    return settings


def flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of nested settings by dotted names, also in lists of dicts, but ``MAY_CHANGE`` and what is empty."""
    hooks = settings.get('default_hooks') or {}
    settings = {
        **settings,
        'default_hooks': {name: hook for name, hook in hooks.items() if _changes_training(hook)},
        'custom_hooks': [hook for hook in settings.get('custom_hooks') or () if _changes_training(hook)] or {},
    }
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in leaves(settings)
        if value != {} and not any(fnmatchcase(name, glob + end) for glob in MAY_CHANGE for end in ('', '[.[]*'))
    }


def _changes_training(hook: Any) -> bool:
    """Tell if a hook changes the training, by its settings; one that nobody knows does."""
    try:
        cls = HOOKS.get(hook['type'])
    except (KeyError, TypeError):  # nothing of that name; no settings
        return True
    return getattr(cls, 'changes_training', not issubclass(cls, LOOK_ON))


def differences(before: dict[str, Any], here: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, old, new) for every leaf that differs, in the order of names."""
    pairs = [(name, before.get(name, MISSING), here.get(name, MISSING)) for name in sorted({*before, *here})]
    return [(name, old, new) for name, old, new in pairs if repr(old) != repr(new)]


def _settle_optimizers(saved: dict, built: dict, changed: set[str]) -> None:
    """Put the settings of newly built optimizers into saved states, for keys in ``changed`` and what schedules move."""
    if 'param_groups' not in saved:  # several by name
        for name in (name for name in saved.keys() & built.keys() if 'param_groups' in saved[name]):
            _settle_optimizers(saved[name], built[name], changed)
        return
    for group, new_group in zip(_groups(saved), _groups(built), strict=False):
        for key, value in new_group.items():
            if (first := f'initial_{key}') in group:  # a schedule has moved the value since
                old, new = group[first], new_group.get(first, value)
                if old != new:
                    group.update({key: group[key] * new / old if old else new, first: new})
            elif key in changed and key in group:
                group[key] = value


def _groups(state: dict) -> list[dict]:
    """The groups of an optimizer, and the one of no weights by which mmengine shows the rate of several groups."""
    return [*state['param_groups'], *(state[key] for key in ('base_param_settings',) if key in state)]


def _change(old: Any, new: Any) -> str:
    shown = [text if len(text) <= 60 else f'{text[:57]}...' for text in (repr(old), repr(new))]
    return f'{shown[0]} in the checkpoint, {shown[1]} now'
