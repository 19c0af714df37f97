"""The config of a run of a comparison, read, merged with options, and checked without loading data."""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ..datasets import settle_auto
from ..optim.constructor import OwnershipConstructor, assign_owners
from ..registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from ..run.config import check_config, check_schedules, merge_options, plain_config, read_config


def load_run_config(path: Path, options: Iterable[Mapping[str, Any]]) -> Config:
    """Read the config of a run, merge options over it, and check that a comparison can train it and read its results.

    Its hooks and pruners are built, and its model without memory. Of data sets, optimizers and schedules only keys,
    owners and names are checked.

    Raises:
        ValueError: it has no ReportHook, no validation, checkpoints elsewhere, a fixed seed of its initial weights, or
            parameters and schedules that do not fit its optimizers.
        Exception: of a constructor.
    """
    cfg = read_config(path)
    for some in options:
        merge_options(cfg, copy.deepcopy(dict(some)))  # merging takes _delete_ out of what it is given
    cfg = plain_config(cfg)
    check_config(cfg)
    _check_use(cfg)
    settings = [{key: value for key, value in copy.deepcopy(hook).items() if key != 'priority'} for hook in _hooks(cfg)]
    hooks = [HOOKS.build(hook) for hook in settings]
    if not any(getattr(hook, 'writes_report', False) for hook in hooks):
        raise ValueError('the config has no ReportHook, whose report.json a comparison reads')
    _check_optimizers(cfg, _build_model(cfg))
    return cfg


def _hooks(cfg: Config) -> list[Mapping[str, Any]]:
    return [hook for hook in [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])] if hook]


def _check_use(cfg: Config) -> None:
    """Refuse a config that could be trained, but not compared."""
    if ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('out_dir'):
        raise ValueError('default_hooks.checkpoint.out_dir: a comparison keeps checkpoints in the folder of each run')
    if missing := [key for key in ('val_cfg', 'val_dataloader', 'val_evaluator') if cfg.get(key) is None]:
        raise ValueError(f'{missing[0]} is missing: without a validation there is no accuracy to compare')
    init = (cfg.get('model') or {}).get('init')
    if isinstance(init, Mapping) and init.get('seed') is not None:
        raise ValueError(
            f'model.init.seed must be None, got {init["seed"]!r}; the seeds of a comparison must differ in '
            'their initial weights'
        )


def _build_model(cfg: Config) -> nn.Module:
    settle_auto(cfg := copy.deepcopy(cfg), classes=2)  # without data, any number will do
    model = dict(cfg.model, data_preprocessor=cfg.get('data_preprocessor'))
    try:
        with torch.device('meta'):
            return MODELS.build(copy.deepcopy(model))
    except RuntimeError:  # a constructor may read a number from a tensor, which needs memory
        return MODELS.build(model)


def _check_optimizers(cfg: Config, model: nn.Module) -> None:
    wrapper = cfg.optim_wrapper
    kind = OPTIM_WRAPPER_CONSTRUCTORS.get(wrapper.get('constructor', 'DefaultOptimWrapperConstructor'))
    if issubclass(kind, OwnershipConstructor):
        constructor = kind({key: value for key, value in wrapper.items() if key != 'constructor'})
        assign_owners(model, {name: settings['owns'] for name, settings in constructor.optimizer_cfgs.items()})
        if cfg.get('param_scheduler') is not None:
            check_schedules(cfg.param_scheduler, constructor.optimizer_cfgs)
