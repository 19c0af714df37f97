"""A compact file as a run loads it."""

import os
from typing import Any

from ..hooks.prune import RECORD
from .network import info, load
from .recipe import check_form

PRUNING = {
    'pruner': str,
    'density': float,
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
    record = {} if told['pruning'] is None else {RECORD: told['pruning']}
    return {
        'meta': {'seed': told['init']['seed']},
        'state_dict': {f'network.{n}': t for n, t in state.items()},
        **record,
    }
