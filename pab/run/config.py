"""Reading a config for a run, and the check that every key of it is read by somebody."""

import difflib
import functools
import inspect
from collections.abc import Iterable

from mmengine.config import Config
from mmengine.runner import Runner

from .lr_scale import check_auto_scale_lr

# What mmengine's runner reads from the config beyond its constructor's arguments.
READ_ELSEWHERE = {
    'activation_checkpointing',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'env_cfg',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'overwrite',
    'runner_type',
    'sync_bn',
}
ENV_KEYS = {'cudnn_benchmark', 'dist_cfg', 'mp_cfg', 'resource_limit'}
MP_KEYS = {'mp_start_method', 'opencv_num_threads'}


class FixedConfig(Config):
    """A config that nobody changes any more. Every checkpoint holds its text, which is therefore made only once."""

    @functools.cached_property
    def pretty_text(self) -> str:
        """The config as a well-laid-out Python file; takes a quarter of a second, the first time."""
        return super().pretty_text


def check_config(cfg: Config) -> None:
    """Refuse a config with a key that nothing would read, before anything is built.

    Deeper keys become arguments of the classes they configure, which refuse what they do not know; those that only
    ``dict.get`` reads are checked here. Names with a leading underscore are the author's own and may be anything.

    Raises:
        ValueError: names the key, and the known ones most like it.
    """
    known = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'} | READ_ELSEWHERE
    _check_keys('config', [key for key in cfg if not key.startswith('_')], known)
    env = cfg.get('env_cfg') or {}
    _check_keys('env_cfg', env, ENV_KEYS)
    _check_keys('env_cfg.mp_cfg', env.get('mp_cfg') or {}, MP_KEYS)
    _check_topk(cfg)
    check_auto_scale_lr(cfg.get('auto_scale_lr') or {})
    for name, hook in (cfg.get('default_hooks') or {}).items():
        if hook is not None and 'type' not in hook:
            known_hooks = [key for key, value in cfg.default_hooks.items() if value and 'type' in value]
            raise ValueError(
                f'config: default_hooks.{name} has no type, got {dict(hook)!r}; '
                f'{_suggest(name, known_hooks, "the hooks of this config are")}'
            )


def _check_topk(cfg: Config) -> None:
    """Refuse before the first epoch what would fail after it."""
    classes = ((cfg.get('model') or {}).get('network') or {}).get('num_classes')
    for key in ('val_evaluator', 'test_evaluator'):
        metrics = cfg.get(key) or []
        for metric in metrics if isinstance(metrics, list | tuple) else [metrics]:
            topk = metric.get('topk', 1) if metric.get('type') == 'Accuracy' else 1
            for k in topk if isinstance(topk, list | tuple) else [topk]:
                if isinstance(classes, int) and isinstance(k, int) and k > classes:
                    raise ValueError(f'{key}: topk must not exceed the number of classes, {classes}, got {k}')


def _check_keys(where: str, keys: Iterable[str], known: set[str]) -> None:
    for key in keys:
        if key not in known:
            raise ValueError(
                f'{where}: nothing reads the key {key!r}; {_suggest(key, known, "known keys are")}'
                ' (a name of your own begins with an underscore)'
            )


def _suggest(key: str, known: Iterable[str], otherwise: str) -> str:
    close = difflib.get_close_matches(key, known, n=3)
    return f'did you mean {" or ".join(close)}?' if close else f'{otherwise} {", ".join(sorted(known))}'
