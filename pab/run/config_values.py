"""Values in a config that mmengine or torch would take unseen, or refuse late and without the key."""

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
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
# Globs over the names of groups of settings that a registry builds.
TYPED = (
    *('model', 'model.network', 'model.data_preprocessor', 'data_preprocessor', 'default_hooks.*.pruner'),
    *('*_dataloader.dataset', '*_dataloader.sampler', 'optim_wrapper.optimizer', 'optim_wrapper.optimizers.*'),
    *('*_evaluator', '*_evaluator[[]*]', 'custom_hooks[[]*]', 'param_scheduler.*', 'param_scheduler.*[[]*]'),
)
# What is said of an open file, for example, which no checkpoint can hold with the text of the config.
NO_DATA = 'is no plain data, as values of a config must be; write its value, or end the file with del of the name'
# Those of them that cannot be None.
NEEDED = ('model.network', '*_dataloader.dataset', 'default_hooks.*.pruner', 'optim_wrapper.optimizers.*')


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
    if name == 'load_from' and not isinstance(value, str | None):
        raise ValueError(f'load_from must be the path or address of a file, or None, got {value!r}')
    if name == 'env_cfg.dist_cfg.timeout' and not (_is_number(value) and value > 0):
        raise ValueError(f'{name} must be a number of seconds above 0, got {value!r}')
    for reader in readers if isinstance(value, Mapping) else ():
        if reader is DataLoader:
            _check_loader(name, value)
        for function in _functions_of(reader):
            _check_kinds(name, value, function)
        if inspect.isclass(reader) and issubclass(reader, Optimizer):
            _check_rates(name, value)
        if inspect.isclass(reader) and issubclass(reader, _ParamScheduler):
            _check_numbers_of_schedule(name, value)
        if inspect.isclass(reader) and issubclass(reader, LoggerHook):
            _check_logging(name, value)
        if inspect.isclass(reader) and issubclass(reader, CheckpointHook | EarlyStoppingHook):
            _check_waiting_hook(name, value, reader)
        if inspect.isclass(reader) and issubclass(reader, BaseLoop):
            _check_intervals(f'{name}.dynamic_intervals', value.get('dynamic_intervals'))


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


def _check_numbers_of_schedule(name: str, settings: Mapping) -> None:
    """Check the settings that have no default, or None, which :func:`_check_kinds` passes."""
    for key in settings.keys() & {'T_max', 'total_steps', 'step_size', 'gamma', 'eta_min', 'eta_min_ratio'}:
        value, is_length = settings[key], key in ('T_max', 'total_steps', 'step_size')
        is_left_open = value is None and key not in ('step_size', 'gamma')
        if not is_left_open and not (_is_number(value) and (value >= 1 or not is_length)):
            raise ValueError(f'{name}.{key} must be a number{is_length * " >= 1"}, got {value!r}')
    for key in settings.keys() & {'milestones', 'periods', 'restart_weights'}:
        value = settings[key]
        if not isinstance(value, list | tuple) or not all(map(_is_number, value)):
            raise ValueError(f'{name}.{key} must be a list of numbers, got {value!r}')


def _check_logging(name: str, settings: Mapping) -> None:
    for key in settings.keys() & {'interval', 'interval_exp_name'}:
        value = settings[key]
        if type(value) is not int or value < 1:
            raise ValueError(f'{name}.{key} must be an integer >= 1, got {value!r}')


def _check_waiting_hook(name: str, settings: Mapping, hook: type[Hook]) -> None:
    """Check the counts of a hook that waits for a metric, and build one for what mmengine says, without the key."""
    for key, least, means in (('interval', 1, 'none'), ('max_keep_ckpts', 1, 'all'), ('save_begin', 0, '')):
        value = settings.get(key, least)
        if type(value) is not int or not (value >= least or (means and value == -1)):
            other = f', or -1 for {means}' if means else ''
            raise ValueError(f'{name}.{key} must be an integer >= {least}{other}, got {value!r}')
    try:
        hook(**{key: value for key, value in settings.items() if key not in ('type', 'priority', '_scope_')})
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{name}: {error.args[0]}') from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_kinds(name: str, settings: Mapping, function: Callable) -> None:
    """Refuse what is no number, or no bool, where the argument of a function is one by default and nothing else."""
    params = inspect.signature(function).parameters
    for key in settings.keys() & params.keys():
        value, param = settings[key], params[key]
        if param.annotation not in (int, float, bool, 'int', 'float', 'bool', param.empty):
            continue
        if value == AUTO and key in SETTLED:  # before the run begins
            continue
        if type(param.default) in (int, float) and not _is_number(value):
            raise ValueError(f'{name}.{key} must be a number, got {value!r}')
        if type(param.default) is bool and not isinstance(value, bool):
            raise ValueError(f'{name}.{key} must be True or False, got {value!r}')


def _check_rates(name: str, settings: Mapping) -> None:
    for key in ('lr', 'momentum', 'weight_decay'):
        value = settings.get(key, 0)
        if not _is_number(value):
            raise ValueError(f'{name}.{key} must be a number, got {value!r}')
        if not value >= 0:
            raise ValueError(f'{name}.{key} must be a number >= 0, got {value!r}')


def _check_intervals(name: str, value: Any) -> None:
    def is_pair(pair: Any) -> bool:
        return isinstance(pair, list | tuple) and len(pair) == 2 and all(type(number) is int for number in pair)

    pairs = value if isinstance(value, list | tuple) else [value]
    if value is not None and not all(map(is_pair, pairs)):
        raise ValueError(f'{name} must be a list of pairs (epoch, interval), such as [(50, 1)], or None, got {value!r}')


def _check_loader(name: str, settings: Mapping) -> None:
    workers = settings.get('num_workers', 0)
    for key, value, least in (('batch_size', settings.get('batch_size', 1), 1), ('num_workers', workers, 0)):
        if type(value) is not int or value < least:
            raise ValueError(f'{name}.{key} must be an integer >= {least}, got {value!r}')
    for key in ('persistent_workers', 'prefetch_factor'):
        if settings.get(key) and not workers:
            off = False if key == 'persistent_workers' else None
            raise ValueError(
                f'{name}.{key} needs num_workers >= 1, got {settings[key]!r} with num_workers={workers}; '
                f'set {name}.{key}={off} as well'
            )
