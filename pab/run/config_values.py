"""Values in a config that mmengine or torch would take unseen, or refuse late and without the key."""

import ast
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from os import PathLike
from typing import Any

from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook, LoggerHook
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.runner import BaseLoop, LogProcessor, Runner
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Sampler

from ..datasets.auto import AUTO, SETTLED

# Of libraries the classes whose arguments are numbers, or True and False, where they are so by default; of pab all.
CHECKED = (Optimizer, _ParamScheduler, OptimWrapper, BaseLoop, LogProcessor, DataLoader, Sampler, Hook)
LIBRARIES = ('mmengine', 'pab', 'torch')
# What is said of an open file, for example, which no checkpoint can hold with the text of the config.
NO_DATA = 'is no plain data, as values of a config must be; write its value, or end the file with del of the name'
# Globs over the names of groups of settings that a registry builds.
TYPED = (
    *('model', 'model.network', 'model.data_preprocessor', 'data_preprocessor', 'default_hooks.*.pruner'),
    *('*_dataloader.dataset', '*_dataloader.sampler', 'optim_wrapper.optimizer', 'optim_wrapper.optimizers.*'),
    *('*_evaluator', '*_evaluator[[]*]', 'custom_hooks[[]*]', 'param_scheduler.*', 'param_scheduler.*[[]*]'),
)
# Those of them that cannot be None.
NEEDED = ('model.network', '*_dataloader.dataset', 'default_hooks.*.pruner', 'optim_wrapper.optimizers.*')


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count_or_minus_1(value: Any) -> bool:
    return type(value) is int and (value >= 1 or value == -1)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(type(number) is int for number in value)


COUNT = 'an integer >= 1', lambda value: type(value) is int and value >= 1
NATURAL = 'an integer >= 0', lambda value: type(value) is int and value >= 0
NUMBER = 'a number', _is_number
LENGTH = 'a number >= 1', lambda value: _is_number(value) and value >= 1
NUMBERS = 'a list of numbers', lambda value: isinstance(value, list | tuple) and all(map(_is_number, value))
PAIRS = (
    'a list of pairs (epoch, interval), such as [(50, 1)], or None',
    lambda value: isinstance(value, list | tuple) and all(map(_is_pair, value)),
)
# Classes, arguments of theirs, and their rule with its test, where defaults do not tell what values are.
RULES = (
    (BaseLoop, ('max_epochs', 'max_iters', 'val_interval'), COUNT),
    (BaseLoop, ('val_begin',), NATURAL),
    (BaseLoop, ('dynamic_intervals',), PAIRS),
    (DataLoader, ('batch_size',), COUNT),
    (DataLoader, ('num_workers',), NATURAL),
    (LoggerHook, ('interval', 'interval_exp_name'), COUNT),
    (CheckpointHook, ('interval',), ('an integer >= 1, or -1 for none', _is_count_or_minus_1)),
    (CheckpointHook, ('max_keep_ckpts',), ('an integer >= 1, or -1 for all', _is_count_or_minus_1)),
    (CheckpointHook, ('save_begin',), NATURAL),
    (EarlyStoppingHook, ('patience',), NATURAL),
    (Optimizer, ('lr', 'weight_decay'), ('a number >= 0', lambda value: _is_number(value) and value >= 0)),
    (Optimizer, ('momentum',), ('a number in [0, 1)', lambda value: _is_number(value) and 0 <= value < 1)),
    (_ParamScheduler, ('T_max', 'total_steps', 'step_size'), LENGTH),
    (_ParamScheduler, ('eta_min', 'eta_min_ratio', 'gamma'), NUMBER),
    (_ParamScheduler, ('milestones', 'periods', 'restart_weights'), NUMBERS),
)
OPEN = ('T_max', 'total_steps', 'eta_min', 'eta_min_ratio', 'dynamic_intervals')  # may be None
# Settings by their dotted names, likewise.
NAMED = {
    'load_from': ('the path or address of a file, or None', lambda value: isinstance(value, str | None)),
    'model.weights': (
        "the path of a file, a name of torchvision's, or None",
        lambda value: isinstance(value, str | PathLike | None),
    ),
    'new_head': ('True or False', lambda value: isinstance(value, bool | None)),
    'randomness.seed': (
        f'an integer in 0..{2**32 - 1}, or None to draw one',  # as numpy takes it
        lambda value: value is None or (isinstance(value, int) and 0 <= value < 2**32),
    ),
    'env_cfg.dist_cfg.timeout': ('a number of seconds above 0', lambda value: _is_number(value) and value > 0),
}


signature_of = functools.cache(inspect.signature)  # of the same few functions for every group of settings


def check_values(name: str, value: Any, readers: Iterable[Callable]) -> None:
    """Raise a ValueError, which begins with the dotted name, for a value that none of its readers can use.

    Args:
        name: of a setting or a group of settings.
        value: of a config.
        readers: the classes and functions whose arguments a group's keys are.
    """
    _check_type(name, value)
    if not isinstance(value, str | int | float | Mapping | list | tuple | type | None):
        try:
            ast.parse(repr(value), mode='eval')
        except SyntaxError as error:
            raise ValueError(f'{name} {NO_DATA}, got {value!r}') from error
    if name == 'param_scheduler' and value is not None:
        by_optimizer = isinstance(value, Mapping) and 'type' not in value
        for key, entry in {f'{name}.{key}': value[key] for key in value}.items() if by_optimizer else [(name, value)]:
            _check_schedule(key, entry)
    if name in NAMED:
        _check(name, value, *NAMED[name])
    for reader in readers if isinstance(value, Mapping) else ():
        for cls, keys, rule in RULES if inspect.isclass(reader) else ():
            for key in keys if issubclass(reader, cls) else ():
                if key in value and not (value[key] is None and key in OPEN):
                    _check(f'{name}.{key}', value[key], *rule)
        if reader is DataLoader:
            _check_workers(name, value)
        for function in _functions_of(reader):
            _check_kinds(name, value, function)
        if inspect.isclass(reader) and issubclass(reader, CheckpointHook | EarlyStoppingHook):
            _check_building(name, value, reader)


def _check(name: str, value: Any, rule: str, fits: Callable[[Any], bool]) -> None:
    if not fits(value):
        raise ValueError(f'{name} must be {rule}, got {value!r}')


def _functions_of(reader: Any) -> list[Callable]:
    """The functions by which a class, and its parents, are built, or which a group of settings is handed to."""
    if reader is Runner.set_randomness:
        return [reader]
    module = getattr(reader, '__module__', '').partition('.')[0]
    if not inspect.isclass(reader) or not (module == 'pab' or (module in LIBRARIES and issubclass(reader, CHECKED))):
        return []
    own = [cls.__init__ for cls in reader.__mro__ if '__init__' in vars(cls)]
    return own + [kind.__init__ for kind in [getattr(reader, 'settings_class', None)] if kind]


def _check_type(name: str, value: Any) -> None:
    def is_one_of(globs: Iterable[str]) -> bool:
        return any(fnmatchcase(name, glob) and name.count('.') == glob.count('.') for glob in globs)

    kind = value.get('type') if isinstance(value, Mapping) else None
    of_evaluator = isinstance(value, Mapping) and 'metrics' in value  # whose type mmengine knows
    if (
        isinstance(value, Mapping)
        and is_one_of(TYPED)
        and not (isinstance(kind, str) or callable(kind) or of_evaluator)
    ):
        hint = '; the settings of the run stand in data_preprocessor' if name == 'model.data_preprocessor' else ''
        raise ValueError(f'{name} needs a type, the name of a class, got {dict(value)!r}{hint}')
    if is_one_of(NEEDED) and (value is None or isinstance(value, str | int | float | list | tuple)):
        raise ValueError(f'{name} must be a dict of settings with a type, got {value!r}')


def _check_schedule(name: str, value: Any) -> None:
    entries = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(entry, str | int | float | None) for entry in entries):
        raise ValueError(f'{name} must be a schedule or a list of schedules, got {value!r}; [] keeps what is set')


def _check_building(name: str, settings: Mapping, hook: type[Hook]) -> None:
    """Build a hook that waits for a metric, for what mmengine says of its settings, without the key."""
    try:
        hook(**{key: value for key, value in settings.items() if key not in ('type', 'priority', '_scope_')})
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{name}: {error.args[0]}') from error


def _check_kinds(name: str, settings: Mapping, function: Callable) -> None:
    """Refuse what is no number, or no bool, where the argument of a function is one by default and nothing else."""
    params = signature_of(function).parameters
    for key in settings.keys() & params.keys():
        value, param = settings[key], params[key]
        if param.annotation not in (int, float, bool, 'int', 'float', 'bool', param.empty):
            continue
        if value == AUTO and key in SETTLED:  # before the run begins
            continue
        if type(param.default) in (int, float):
            _check(f'{name}.{key}', value, *NUMBER)
        if type(param.default) is bool:
            _check(f'{name}.{key}', value, 'True or False', lambda value: isinstance(value, bool))


def _check_workers(name: str, settings: Mapping) -> None:
    workers = settings.get('num_workers', 0)
    for key, off in (('persistent_workers', False), ('prefetch_factor', None)):
        if settings.get(key) and not workers:
            raise ValueError(
                f'{name}.{key} needs num_workers >= 1, got {settings[key]!r} with num_workers={workers}; '
                f'set {name}.{key}={off} as well'
            )
