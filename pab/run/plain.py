"""Checkpoints as plain data, which torch loads without running anything that a file might contain."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

PLAIN = (bool, int, float, complex, str, bytes, type(None))
HISTORY = 'history'  # the key that marks the plain form of a HistoryBuffer


def to_plain(value: Any, where: str, dropped: list[str]) -> Any:
    """Turn a value into tensors, dicts, lists, tuples, strings and numbers.

    Args:
        value: of a checkpoint. numpy arrays become tensors, numpy scalars numbers, sets sorted lists, and a
            HistoryBuffer a dict of tensors that :func:`history_from_plain` reads.
        where: the value's name.
        dropped: gets the name of every value that has no plain form; its place is taken by None.
    """
    if type(value) in PLAIN or isinstance(value, Tensor):
        return value.detach() if isinstance(value, Tensor) else value
    if isinstance(value, HistoryBuffer):
        values, counts = value.data
        tensors = {'values': torch.from_numpy(values.copy()), 'counts': torch.from_numpy(counts.copy())}
        return {HISTORY: {**tensors, 'max_length': value.max_length}}
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biufc':
        return torch.from_numpy(np.ascontiguousarray(value).copy())
    if isinstance(value, np.generic):
        return to_plain(value.item(), where, dropped)
    if isinstance(value, Mapping):
        return {
            to_plain(key, f'{where} key', dropped): to_plain(v, f'{where}.{key}', dropped) for key, v in value.items()
        }
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=repr)
    if isinstance(value, (list, tuple)):
        items = [to_plain(v, f'{where}[{i}]', dropped) for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    for plain in (bool, int, float, str):  # subclasses, such as enums of them
        if isinstance(value, plain):
            return plain(value)
    dropped.append(f'{where} ({type(value).__name__})')
    return None


def history_from_plain(value: Any) -> Any:
    """Turn the plain form of a HistoryBuffer back, with the same numbers in the same types; others pass unchanged."""
    if not (isinstance(value, Mapping) and set(value) == {HISTORY}):
        return value
    plain = value[HISTORY]
    return HistoryBuffer(plain['values'].cpu().numpy(), plain['counts'].cpu().numpy(), plain['max_length'])
