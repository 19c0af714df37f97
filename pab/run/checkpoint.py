"""The content of checkpoint files: written as plain data, and read without running anything in a file."""

import os
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

from ..checks import some
from ..contracts import names_of_latents
from ..models import network_of
from ..pruners import check_state_masks, get_masks
from ..registry import READERS
from ..state_dicts import MASK, NETWORK_PREFIX, head_of_another_size, masks_in, renamed

NEEDED_TO_RESUME = ('meta', 'state_dict', 'message_hub', 'optimizer')  # the least that a file must hold
HISTORY = 'history'  # the key that marks the plain form of a HistoryBuffer


class UnusableCheckpoint(ValueError):
    """A file that cannot be used as a checkpoint: damaged, refused, or of something else."""


def to_plain(value: Any, where: str, dropped: list[str]) -> Any:
    """Turn the value named ``where`` into tensors, dicts, lists, tuples, strings and numbers, sets into sorted lists.

    What has no plain form becomes None, and its name is added to ``dropped``. Functions in dicts are left out if
    ``where`` begins with param_schedulers: OneCycleLR holds one beside its numbers, and a resumed run builds it anew.
    """
    if type(value) in (bool, int, float, complex, str, bytes, type(None)):
        return value
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, HistoryBuffer):
        values, counts = (torch.from_numpy(column.copy()) for column in value.data)
        return {HISTORY: {'values': values, 'counts': counts, 'max_length': value.max_length}}
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biufc':
        return torch.from_numpy(np.ascontiguousarray(value).copy())
    if isinstance(value, np.generic):
        return to_plain(value.item(), where, dropped)
    if isinstance(value, Mapping):
        if where.startswith('param_schedulers'):
            value = {k: v for k, v in value.items() if not callable(v)}
        plain = {to_plain(k, f'{where} key', dropped): to_plain(v, f'{where}.{k}', dropped) for k, v in value.items()}
        if hasattr(value, '_metadata'):  # of a state dict: the versions of its modules
            plain = OrderedDict(plain)
            plain._metadata = to_plain(value._metadata, f'{where}._metadata', dropped)
        return plain
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    if isinstance(value, list | tuple):
        items = [to_plain(v, f'{where}[{i}]', dropped) for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if plain := next((kind for kind in (int, float, str) if isinstance(value, kind)), None):  # such as enums of them
        return plain(value)
    dropped.append(f'{where} ({type(value).__name__})')
    return None


def history_from_plain(value: Any) -> Any:
    """Turn the plain form of a HistoryBuffer back; other values pass unchanged."""
    if not (isinstance(value, Mapping) and set(value) == {HISTORY}):
        return value
    plain = value[HISTORY]
    return HistoryBuffer(plain['values'].cpu().numpy(), plain['counts'].cpu().numpy(), plain['max_length'])


def load_any(path: str | os.PathLike, map_location: Any = 'cpu') -> Any:
    """:func:`load_safely`, and by what reads them, of files whose ending is in ``READERS``; raises as that does."""
    path = Path(path).expanduser()
    if (reader := READERS.get(path.suffix)) is None:
        return load_safely(path, map_location)
    return (resolve_name(reader) if isinstance(reader, str) else reader)(path)  # imported now: it may need an extra


def load_safely(path: str | os.PathLike, map_location: Any = 'cpu', check: bool = True) -> Any:
    """Load a file that torch wrote, without running anything it might contain, and only if every byte is sound.

    Args:
        path: of the file.
        map_location: where its tensors go.
        check: verify the checksums, which torch does not; otherwise tensors stay in the file until they are used.

    Raises:
        FileNotFoundError: there is no such file.
        UnusableCheckpoint: it is empty, truncated, damaged, no file of torch's, or holds more than plain data.
    """
    path = Path(path).expanduser()
    if check:
        check_sums(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'Detected pickle protocol|.*TorchScript')  # they are refused in a moment
            mmap = not check and zipfile.is_zipfile(path)
            return torch.load(str(path), map_location=map_location, weights_only=True, mmap=mmap)
    except FileNotFoundError:
        raise FileNotFoundError(f'there is no checkpoint {path}') from None
    except Exception as error:  # torch raises many kinds
        raise UnusableCheckpoint(f'{path} {_why_unreadable(path, error)}') from error


def _why_unreadable(path: Path, error: Exception) -> str:
    """Why torch did not load a file, without its advice, which is to load what may run code."""
    if isinstance(error, IsADirectoryError | PermissionError):
        return f'cannot be read: {error.strerror}'
    if not path.stat().st_size:
        return 'is empty (0 bytes)'
    why = 'only plain data is loaded, because anything else could run code'
    if wanted := re.search(r'GLOBAL ([A-Za-z_][\w.]*)', str(error)):
        return f'is refused: it asks for {wanted.group(1)}, and {why}'
    names = {name.rpartition('/')[2] for name in zipfile.ZipFile(path).namelist()} if zipfile.is_zipfile(path) else ()
    if 'constants.pkl' in names:
        return f'is refused: it is a TorchScript program, and {why}'
    if 'version' not in names:  # which torch writes into every archive
        return 'is truncated or was not written by torch'
    if isinstance(error, UnpicklingError):
        return f'is refused: it holds more than plain data, and {why}'
    return f'cannot be loaded: {(str(error).splitlines() or [type(error).__name__])[0][:200]}'


def check_sums(path: Path) -> None:
    """Raise UnusableCheckpoint if a checksum in a file that torch wrote is wrong."""
    try:
        if zipfile.is_zipfile(path) and (bad := zipfile.ZipFile(path).testzip()):
            raise UnusableCheckpoint(f'{path} is damaged: the checksum of {bad} is wrong')
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise UnusableCheckpoint(f'{path} is damaged: {error}') from error


def non_finite(value: Any, name: str = '') -> str | None:
    """The dotted name of the first tensor in nested dicts and lists that holds NaN or infinity; None when none does."""
    if isinstance(value, Tensor):
        return name if value.is_floating_point() and not torch.isfinite(value).all() else None
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    return next((bad for key, v in items if (bad := non_finite(v, f'{name}.{key}' if name else str(key)))), None)


def missing_for_resume(checkpoint: Any) -> list[str]:
    """Name what a run needs to go on and the content of a file lacks."""
    content = checkpoint if isinstance(checkpoint, Mapping) else {}
    meta = content.get('meta')
    counted = isinstance(meta, Mapping) and {'iter', 'epoch'} <= set(meta)
    return [key for key in NEEDED_TO_RESUME if key not in content or (key == 'meta' and not counted)]


def check_resumable(checkpoint: Any, path: str | os.PathLike, model: nn.Module | None = None) -> None:
    """Raise UnusableCheckpoint if the content of ``path`` holds no run, or a weight or a state that is not finite.

    Buffers of the model may hold anything.
    """
    if missing := missing_for_resume(checkpoint):
        raise UnusableCheckpoint(
            f'{path} cannot be resumed: it has no {", ".join(missing)}; resume from an epoch_*.pth or iter_*.pth, or '
            'start a new run from its weights with --cfg-options load_from=FILE'
        )
    buffers = {name for name, _ in model.named_buffers()} if model else ()
    weights = {name: value for name, value in checkpoint['state_dict'].items() if name not in buffers}
    if bad := non_finite({'state_dict': weights, 'optimizer': checkpoint['optimizer']}):
        raise UnusableCheckpoint(f'{path} cannot be resumed: {bad} is not finite')


def as_start(
    model: nn.Module, state_dict: Mapping[str, Tensor], new_head: bool, dense: bool
) -> tuple[OrderedDict[str, Tensor], str, list[str]]:
    """Make of a state dict what a run can begin with; what does not fit stays as it is.

    A state dict of the network alone gets the names that it has in an ImageClassifier. Latents that it lacks are those
    of the model. Returns the state dict, what was done in words, and the names of a head that was drawn anew.

    Args:
        model: with its initial weights, and with masks if the run prunes.
        state_dict: of a file.
        new_head: take the model's head where it has another number of classes: the tensors of another shape, if they
            differ in their first size only, and all from the same number to the same.
        dense: give masks that keep everything to a state dict that has no mask, for the run to prune.
    """
    alone = network_of(model) is not model and not any(name.startswith(NETWORK_PREFIX) for name in state_dict)
    state = renamed(state_dict, lambda name: NETWORK_PREFIX + name if alone else name)
    own, before = model.state_dict(), {*state}
    head = head_of_another_size(own, state) if new_head else []
    anew = sorted(names_of_latents(model) - state.keys()) + head
    state.update({name: own[name] for name in anew})
    told = f'took {len(before - {*anew})} of {len(before)} tensors'
    if anew:
        told += f'; not from there, but drawn anew: {some(anew, 4)}'
    masks = get_masks(model, remove_duplicate=False)
    if dense and masks and not masks_in(state):
        state.update({name + MASK: torch.ones_like(mask) for name, mask in masks.items() if name in state})
        told += '; it is dense, and this run prunes it'
    return state, told, head


def check_fits(model: nn.Module, state_dict: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Raise UnusableCheckpoint, naming ``path``, unless a state dict has a model's tensors, their shapes, and masks."""

    def shapes(state: Mapping[str, Any]) -> dict[str, Any]:
        """Name -> shape, or type of what is no tensor; without masks, which have a check of their own."""
        masks = {name + MASK for name in masks_in(state)}
        names = [name for name in state if name not in masks]
        return {n: tuple(state[n].shape) if isinstance(state[n], Tensor) else type(state[n]).__name__ for n in names}

    here, there = shapes(model.state_dict()), shapes(state_dict)
    wrong = [
        f'{name} is {there.get(name, "missing")} there and {here.get(name, "missing")} here'
        for name in {**here, **there}
        # what batch norm counts came with torch 0.4.1
        if here.get(name) != there.get(name) and not (name.endswith('num_batches_tracked') and name not in there)
    ]
    if wrong:
        more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        way_out = 'Give the config it had'
        if head_of_another_size(model.state_dict(), state_dict):
            way_out += ', or set new_head=True for a training that draws the head anew'
        raise UnusableCheckpoint(f'{path} is a checkpoint of another model: {"; ".join(wrong[:3])}{more}. {way_out}')
    try:
        check_state_masks(model, state_dict)
    except ValueError as error:
        raise UnusableCheckpoint(f'{path} does not fit the masks of this run: {error}') from error
