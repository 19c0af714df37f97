"""A compact file as a run loads it."""

import os
from typing import Any

from mmengine.config import Config
from torch import nn

from ..registry import CONVERTERS, MODELS
from ..state_dicts import NETWORK_PREFIX, PRUNING_RECORD, renamed
from .network import info, load
from .recipe import check_form

PRUNING = {
    'pruner': str,
    'density': (float, list),
    'shots': int,
    'shots_done': int,
    'seed': int,
    'masks_sha256': str,
    'pruned_from': (dict, type(None)),
}


def as_checkpoint(file: str | os.PathLike) -> dict[str, Any]:
    """Read a compact file as a checkpoint of an ImageClassifier, with its masks and the record of its pruning.

    Raises:
        FileNotFoundError, CompactError: as for :func:`pab.compact.load`.
    """
    told, state = info(file), load(file).state_dict()
    if told['pruning'] is not None:
        check_form(told['pruning'], PRUNING, f'{file}: pruning')
    record = {} if told['pruning'] is None else {PRUNING_RECORD: told['pruning']}
    meta = {} if told['init'] is None else {'seed': told['init']['seed']}
    if told['classes']:
        meta['dataset_meta'] = {'classes': tuple(told['classes'])}
    return {
        'meta': meta,
        'state_dict': renamed(state, NETWORK_PREFIX.__add__),
        **record,
    }


@MODELS.register_module('CompactNetwork')
def compact_network(file: str | os.PathLike) -> nn.Module:
    """The plain network of a compact file, with its weights and masks.

    With ``init=None``, :class:`~pab.models.ImageClassifier` leaves them as they are. A config that names it outside of
    pab's commands imports it by ``custom_imports=dict(imports=['pab.compact'])``.
    """
    return load(file)


compact_network.reads_a_file = True  # so that a data file may not name it


def evaluate_file_(cfg: Config, file: str | os.PathLike) -> None:
    """Change the config of a run so that a test is one of the network in a compact file, whatever trained it.

    Converters that would give layers latents are dropped, as the file holds the used weights; others, such as PSG,
    stay, and so does what the config says of images and of the test.

    Raises:
        FileNotFoundError, CompactError: as for :func:`pab.compact.info`.
    """
    told = info(file)  # an error comes before anything is built
    converters = cfg.model.get('converter') or []
    converters = [converters] if isinstance(converters, dict) else converters
    cfg.model.network = dict(type='CompactNetwork', file=str(file))
    cfg.model.converter = [config for config in converters if not _adds_latents(config)]
    cfg.model.init, cfg.load_from = None, str(file)  # loaded again: a converter may have set values
    cfg.model.input_shape = tuple(told['input_shape']) or cfg.model.get('input_shape')
    if 'prune' in (cfg.get('default_hooks') or {}):
        cfg.default_hooks.prune = None


def _adds_latents(converter: dict[str, Any]) -> bool:
    return getattr(CONVERTERS.get(converter['type']), 'adds_latents', lambda: False)()
