"""Reading a config for a run, and the check that something reads every key of it."""

import contextlib
import functools
import inspect
import logging
import math
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from pkgutil import resolve_name
from types import FunctionType, ModuleType
from typing import Any

import mmengine
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.registry import Registry
from mmengine.runner import LogProcessor, Runner, TestLoop, ValLoop
from mmengine.utils import import_modules_from_strings
from mmengine.visualization import Visualizer
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from .. import registry
from ..checks import did_you_mean
from ..optim.wrapper import check_clipping
from .config_files import CONFIGS
from .config_values import NO_DATA, check_values, signature_of
from .loops import check_loop

# What mmengine's runner reads from the config beyond its constructor's arguments.
READ_ELSEWHERE = {
    *('activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval', 'env_cfg'),
    *('find_unused_parameters', 'model_wrapper_cfg', 'new_head', 'overwrite', 'runner_type', 'sync_bn'),
}
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# What reads the groups that need no ``type``: their keys, or the function or class whose arguments they are.
GROUP_READERS: dict[str, set[str] | Callable] = {
    'auto_scale_lr': {'base_batch_size', 'enable'},
    'env_cfg': {'cudnn_benchmark', 'dist_cfg', 'mp_cfg', 'resource_limit'},
    'env_cfg.dist_cfg': {'backend', 'timeout'},
    'env_cfg.mp_cfg': {'mp_start_method', 'opencv_num_threads'},
    'log_processor': LogProcessor,
    'model_wrapper_cfg': MMDistributedDataParallel,
    'randomness': Runner.set_randomness,
    'test_cfg': TestLoop,
    'val_cfg': ValLoop,
    'visualizer': Visualizer,
    **dict.fromkeys(LOADERS, DataLoader),
}
GROUPS = {*GROUP_READERS, 'data_preprocessor', 'default_hooks', 'model', 'optim_wrapper', 'train_cfg'}
# Keys that are read by whoever builds an object, beside the arguments of its class.
READ_BY_BUILDERS = {
    DataLoader: {'disable_subprocess_warning', 'num_batch_per_epoch'},
    Hook: {'priority'},
    OptimWrapper: {'constructor', 'optimizers', 'paramwise_cfg'},
    Optimizer: {'owns'},
    _ParamScheduler: {'convert_to_iter_based'},
}


class NonFinite(float):
    """NaN or an infinity, which the text of a config can hold."""

    def __repr__(self) -> str:
        return f"float('{float(self)}')"

    __str__ = __repr__


class FixedConfig(Config):
    """A config that nobody changes any more. Every checkpoint holds its text, which is therefore made only once."""

    @functools.cached_property
    def pretty_text(self) -> str:
        """The config as a well-laid-out Python file; takes a quarter of a second, the first time."""
        return super().pretty_text


def read_config(path: str | os.PathLike) -> Config:
    """Read a config file of either kind, with ``_base_`` or with ``with read_base():``, as plain data.

    ``{{$PAB_CONFIGS:}}`` in it is the folder of the configs that come with pab, in ``_base_`` too. Raises what the
    file, which is a program, raises; where that says little, a ValueError with the line of the file.
    """
    os.environ['PAB_CONFIGS'] = str(CONFIGS)
    lazy = bool(re.search(r'^with\s+read_base\s*\(', Path(path).read_text(encoding='utf-8'), re.MULTILINE))
    # mmengine would also take a file with an import for one of the second kind, and then refuse its _base_
    try:
        with _no_line_for_each_variable():
            return plain_config(Config.fromfile(str(path), lazy_import=lazy))
    except AssertionError as error:  # mmengine has a list of packages
        if str(error) != 'mmengine does not support to load pab config.':
            raise
        way = "write '{{$PAB_CONFIGS:}}/pab/quickstart.py' for a config of pab"
        raise ValueError(f"_base_: mmengine reads 'pab::...' for packages of its own family only; {way}") from error
    except KeyError as error:
        if error.args != ("'__name__' not in globals",):  # a relative import
            raise
        raise ValueError('a base is read in the block of a line of its own, not indented: with read_base():') from error
    except TypeError as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]  # mmengine copies what a file holds
        keys = [frame.f_locals.get('key') for frame in frames if 'deepcopy_' in frame.f_code.co_name]
        if not str(error).startswith('cannot pickle'):
            raise
        raise ValueError(f'{".".join(map(str, keys))} {NO_DATA} ({error})') from error
    except (AttributeError, NameError, RuntimeError) as error:
        frames, folder = traceback.extract_tb(error.__traceback__), os.path.dirname(mmengine.__file__)
        if isinstance(error, RuntimeError) and not frames[-1].filename.startswith(folder):
            raise  # by the file itself
        at = [frame for frame in frames if not frame.filename.startswith(folder)][-1]
        told = str(error) or 'with read_base() an import has no use but as a type; write the value, or use _base_'
        where = '' if at.filename == __file__ else f'{at.filename}, line {at.lineno}, {at.line!r}: '
        raise ValueError(where + told) from error


@contextlib.contextmanager
def _no_line_for_each_variable() -> Iterator[None]:
    """Keep mmengine from writing one for each environment variable in each file."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        yield
    finally:
        logger.setLevel(level)


def plain_config(cfg: Config | Mapping) -> Config:
    """Return a copy without what the file imported, and with names where it has classes and functions.

    What is registered gets the name that it is registered by, so that both kinds of config files lead to one config.
    """
    imported = (type, ModuleType, FunctionType)
    listed = cfg.to_dict() if isinstance(cfg, Config) else cfg  # iteration has imported names too (mmengine 0.10.7)
    names = [key for key in listed if key in READ_ELSEWHERE or not isinstance(cfg[key], imported)]
    return Config({key: _plain(cfg[key]) for key in names}, filename=getattr(cfg, 'filename', None))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(value[key]) for key in value}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if isinstance(value, float) and not math.isfinite(value):
        return NonFinite(value)
    if not isinstance(value, type | FunctionType):
        return value
    if {*_registered(value.__name__)} == {value}:
        return value.__name__
    name = f'{value.__module__}.{value.__qualname__}'
    try:
        return name if resolve_name(name) is value else value
    except (ImportError, AttributeError, ValueError):  # such as a class that a function defines
        return value


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Replace values of a config, by their dotted names; ValueError where that is a whole group of settings.

    Modules that ``custom_imports`` then names are imported, as those of a file are.
    """
    for name, value in options.items():
        old: Any = cfg._cfg_dict
        for key in name.split('.'):
            old = old.get(key) if isinstance(old, Mapping) else None
        if isinstance(old, Mapping) and old and not isinstance(value, Mapping | None):
            choices = ', '.join(f'{name}.{key}' for key in old)
            raise ValueError(f'{name} is a group of settings, got {value!r}; set one of {choices}')
    cfg.merge_from_dict(dict(options))
    if any(name.partition('.')[0] == 'custom_imports' for name in options) and cfg.custom_imports:
        import_modules_from_strings(**cfg.custom_imports)


def check_config(cfg: Config) -> None:
    """Refuse a config with a key that nothing would read, before anything is built.

    Checked are the config's own keys, unless they begin with an underscore; the keys of groups such as ``env_cfg``;
    and the keys of every dict with a ``type``, at any depth, against the arguments of that class and, where it takes
    ``**kwargs``, of its parents.

    Raises:
        ValueError: names the key, and the known ones most like it; or a number that is out of range.
    """
    known = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'} | READ_ELSEWHERE
    check_keys('config', [key for key in cfg if not key.startswith('_')], known)
    for key, value in cfg.items():
        if key in GROUPS and not isinstance(value, Mapping | None):
            raise ValueError(f'config: {key} must be a dict of settings, got {value!r}')
        if key == 'custom_hooks' and not isinstance(value, list | tuple | None):
            raise ValueError(f'config: custom_hooks must be a list of hooks, got {value!r}')
        if key == 'train_cfg' and isinstance(kind := (value or {}).get('type'), str):
            for loop in _registered(kind):
                check_loop(loop)  # before its arguments, which are those of another loop
        if key == 'default_hooks':
            _check_hooks(value or {})
        _check_arguments(key, value)
    _check_choices(cfg)
    check_clipping('optim_wrapper.clip_grad', (cfg.get('optim_wrapper') or {}).get('clip_grad'))
    scale = cfg.get('auto_scale_lr') or {}
    base = scale.get('base_batch_size')
    if scale.get('enable') and (type(base) is not int or base < 1):
        raise ValueError(
            f'auto_scale_lr: base_batch_size, the batch that lr belongs to, must be an integer >= 1, got {base!r}'
        )


def _check_hooks(hooks: Mapping) -> None:
    """Refuse a hook without a type; its name may be a misspelt one."""
    known = [name for name, hook in hooks.items() if isinstance(hook, Mapping) and 'type' in hook]
    for name, hook in hooks.items():
        if hook is not None and name not in known:
            hint = suggest(name, known, 'the hooks of this config are')
            raise ValueError(f'config: default_hooks.{name} has no type, got {hook!r}; {hint}')


def check_schedules(scheduler: Any, optimizers: Iterable[str]) -> None:
    """Refuse a ``param_scheduler`` that has not one entry for each of the named optimizers."""
    names = sorted(optimizers)
    got = sorted(scheduler) if isinstance(scheduler, Mapping) and 'type' not in scheduler else scheduler
    if got != names:
        entries = ', '.join(f'{name}=[]' for name in names)
        raise ValueError(
            f'param_scheduler: needs one entry for each optimizer, {", ".join(names)}, such as dict({entries}), where '
            f'[] keeps what is set; got {got!r}'
        )


def _check_choices(cfg: Config) -> None:
    """Refuse what mmengine would not look at, or only in a run of several processes."""
    wrapper = (cfg.get('model_wrapper_cfg') or {}).get('type')
    if isinstance(wrapper, str) and not _registered(wrapper):
        raise ValueError(
            f'model_wrapper_cfg: {wrapper!r} is not a registered model wrapper; MMDistributedDataParallel is'
        )
    loaders = {name: (cfg.get(name) or {}).get('dataset') or {} for name in LOADERS}
    divided = {
        name: f'val_share={dataset.get("val_share")} and split_seed={dataset.get("split_seed", 0)}'
        for name, dataset in loaders.items()
        if dataset.get('type') in ('ImageFolder', 'ImageNet') and dataset.get('split') != 'test'
    }
    if len({*divided.values()}) > 1:
        told = ', '.join(f'{name} has {value}' for name, value in divided.items())
        raise ValueError(f'config: all data must be divided alike, or images of the training validate; {told}')
    if cfg.get('new_head') and not (cfg.get('load_from') or cfg.get('resume')):
        raise ValueError('config: new_head=True needs load_from, a file whose head has another number of classes')
    for key, known in (('sync_bn', ('torch', 'mmcv')), ('log_level', logging._nameToLevel)):
        if cfg.get(key) and cfg[key] not in known:
            raise ValueError(f'config: {key} must be one of {", ".join(known)}, got {cfg[key]!r}')


def _check_arguments(name: str, value: Any) -> None:
    """Check the keys and values of a group of settings, and of the groups in it."""
    kind = value.get('type') if isinstance(value, Mapping) else None
    readers = _named(kind) if isinstance(kind, str) else [kind or GROUP_READERS.get(name)]
    check_values(name, value, readers)
    if isinstance(value, Mapping):
        known = [_read_by(reader) for reader in readers if reader is not None]
        if known and None not in known:
            # a name of the author's own may hold what replaces a group elsewhere
            unread = {'type', '_scope_', *(['_delete_'] if name.startswith('_') else [])}
            check_keys(name, [key for key in value if key not in unread], set().union(*known))
        for key, item in value.items():
            _check_arguments(f'{name}.{key}', item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_arguments(f'{name}[{index}]', item)


def _named(kind: str) -> list[Callable]:
    """List what a ``type`` may mean: the entries of registries under the name, or a class by its module and name."""
    try:
        return [resolve_name(kind)] if '.' in kind else _registered(kind)
    except (ImportError, AttributeError, ValueError):  # a scope, and the name in it
        return _registered(kind)


def _registered(name: str) -> list[Callable]:
    """List the entries of all registries under a name, with or without a scope; ours hide mmengine's of the kind."""
    children = [value for value in [*vars(registry).values(), *registry._REST] if isinstance(value, Registry)]
    for child in children:
        child.import_from_location()
    last = name.rpartition('.')[2]
    found = [c.module_dict.get(last) or (c.parent and c.parent.module_dict.get(last)) for c in children]
    return [module for module in found if module]


def _read_by(reader: set[str] | Callable) -> set[str] | None:
    """The keys that a function or class takes as arguments; None when that may be any."""
    if isinstance(reader, set):
        return reader
    functions, known = [reader], set()
    if settings := getattr(reader, 'settings_class', None):  # the dataclass whose fields its **settings are
        known.update(settings.__dataclass_fields__)
    if inspect.isclass(reader):
        functions = [cls.__init__ for cls in reader.__mro__ if '__init__' in vars(cls)]
        known |= set().union(*(keys for cls, keys in READ_BY_BUILDERS.items() if issubclass(reader, cls)))
    for function in functions:
        params = signature_of(function).parameters.values()
        known |= {p.name for p in params if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {'self'}
        if all(p.kind is not p.VAR_KEYWORD for p in params):
            return known
    return None


def check_keys(where: str, keys: Iterable[str], known: set[str]) -> None:
    """Raise a ValueError for a key that is not known; at the top of a file, one with an underscore is one's own."""
    for key in keys:
        if key not in known:
            own = '; a name of your own begins with an underscore' if where in ('config', 'comparison') else ''
            raise ValueError(f'{where}: nothing reads the key {key!r}; {suggest(key, known, "known keys are")}{own}')


def suggest(key: str, known: Iterable[str], otherwise: str) -> str:
    """The known names most like one that is not known; all of them, after ``otherwise``, where none is."""
    return did_you_mean(key, known) or f'{otherwise} {", ".join(sorted(known))}'
