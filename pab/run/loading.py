"""Reading checkpoints: safely, whole or not at all, and only into the model they belong to."""

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..pruners import check_state_masks

# What a file must hold for a run to go on from it.
RUN_KEYS = ('state_dict', 'message_hub', 'optimizer')
NOT_FOR_RESUME = 'diverged_'  # begins the names of checkpoints that are kept to look at, not to go on from


class UnusableCheckpoint(ValueError):
    """A file that cannot be used as a checkpoint: damaged, refused, or of something else."""


def load_safely(path: str | os.PathLike, map_location: Any = 'cpu') -> Any:
    """Load a file that torch wrote, without running anything it might contain, and only if every byte is sound.

    Beyond tensors, numbers, strings and the containers of python no type is allowed; pab's checkpoints hold no other
    (:mod:`pab.run.plain`), so the list of further types is empty.

    Raises:
        FileNotFoundError: there is no such file.
        UnusableCheckpoint: it is empty, truncated, damaged, no file of torch's, or asks for code to be run.
    """
    path = Path(path).expanduser()
    _check_file(path)
    _check_bytes(path)
    return _unpickle(path, map_location)


def find_newest(folders: Iterable[str | os.PathLike], tell: Callable[[str], None]) -> Path | None:
    """Find the checkpoint that a run in these folders can best go on from: the one with the most iterations.

    Args:
        folders: searched for ``*.pth``, not below; one that does not exist is empty.
        tell: called with one sentence for each file that is passed over, with its name and the reason.

    Returns:
        None when there is none.

    Raises:
        UnusableCheckpoint: there are damaged files and no other, so that starting anew might not be what was meant.
    """
    files = [f for folder in folders for f in sorted(Path(folder).glob('*.pth')) if f.is_file()]
    found, damaged = [], []
    for path in files:
        if path.name.startswith(NOT_FOR_RESUME):
            tell(f'passing over {path}: it was written when the loss was no longer finite')
            continue
        try:
            _check_file(path)
            checkpoint = _unpickle(path, 'cpu', mmap=zipfile.is_zipfile(path))
            progress = _progress(checkpoint)
        except UnusableCheckpoint as error:
            damaged.append(path)
            tell(f'passing over a damaged file: {error}')
            continue
        if missing := _missing_for_resume(checkpoint):
            if not path.name.startswith('best_'):  # those never have an optimizer
                tell(f'passing over {path}: it is no checkpoint to resume a run from, it has no {", ".join(missing)}')
            continue
        found.append((progress, path.stat().st_mtime_ns, path))
    for _, _, path in sorted(found, reverse=True):
        try:
            _check_bytes(path)
        except UnusableCheckpoint as error:
            damaged.append(path)
            tell(f'passing over a damaged file: {error}')
        else:
            return path
    if damaged:
        raise UnusableCheckpoint(
            f'no checkpoint in {damaged[0].parent} can be resumed: {", ".join(path.name for path in damaged)} '
            f'{"is" if len(damaged) == 1 else "are"} damaged; remove what is damaged to start from the beginning'
        )
    return None


def check_resumable(checkpoint: Any, path: str | os.PathLike) -> None:
    """Refuse to resume from a file that holds weights but no run.

    Raises:
        UnusableCheckpoint: names what is missing.
    """
    if missing := _missing_for_resume(checkpoint):
        raise UnusableCheckpoint(
            f'{path} cannot be resumed: it has no {", ".join(missing)}; resume from an epoch_*.pth or iter_*.pth, or '
            'start a new run from its weights with --cfg-options load_from=FILE'
        )


def check_fits(model: nn.Module, state_dict: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Verify that a state dict has the tensors of a model, of the same shapes, and its masks.

    Args:
        model: nothing in it is changed.
        state_dict: with the model's own names.
        path: for the message.

    Raises:
        UnusableCheckpoint: says that it is of another model, with the first tensors that differ; or what is wrong with
            its masks.
    """
    own = model.state_dict()
    not_tensors = [name for name, value in state_dict.items() if name in own and not isinstance(value, Tensor)]
    shapes = [
        f'{name} is {tuple(state_dict[name].shape)} there and {tuple(value.shape)} here'
        for name, value in own.items()
        if isinstance(value, Tensor) and name in state_dict and name not in not_tensors
        if state_dict[name].shape != value.shape
    ]
    # what batch norm counts came with torch 0.4.1; masks are looked at below, with more to say
    missing = [n for n in own if n not in state_dict and not n.endswith('num_batches_tracked') and not _is_mask(n, own)]
    extra = [n for n in state_dict if n not in own and not _is_mask(n, state_dict)]
    wrong = [
        *_first(missing, 'it lacks'),
        *_first(extra, 'it has'),
        *_first(shapes, ''),
        *_first(not_tensors, 'no tensor is'),
    ]
    if wrong:
        raise UnusableCheckpoint(
            f'{path} is a checkpoint of another model: {"; ".join(wrong)}. Give the config it was trained with'
        )
    try:
        check_state_masks(model, state_dict)
    except ValueError as error:
        raise UnusableCheckpoint(f'{path} does not fit the masks of this run: {error}') from error


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f'there is no checkpoint {path}')
    if path.stat().st_size == 0:
        raise UnusableCheckpoint(f'{path} is empty (0 bytes)')


def _check_bytes(path: Path) -> None:
    # torch's files are zip archives with a checksum for each tensor, which torch itself does not look at
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise UnusableCheckpoint(f'{path} is damaged: {error}') from error
    if bad:
        raise UnusableCheckpoint(f'{path} is damaged: the checksum of {bad} is wrong')


def _unpickle(path: Path, map_location: Any, mmap: bool | None = None) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'Detected pickle protocol')  # in files that are refused in a moment
            return torch.load(str(path), map_location=map_location, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        wanted = re.search(r'GLOBAL ([A-Za-z_][\w.]*)', str(error))
        if wanted:
            raise UnusableCheckpoint(
                f'{path} is refused: it asks for {wanted.group(1)}, and only plain data is loaded, because anything '
                'else could run code'
            ) from None
        raise UnusableCheckpoint(f'{path} is truncated or was not written by torch') from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        text = str(error).splitlines()
        reason = text[0][:200] if text else type(error).__name__
        raise UnusableCheckpoint(f'{path} is truncated or was not written by torch ({reason})') from error


def _progress(checkpoint: Any) -> tuple[int, int]:
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    return int(meta.get('iter', -1)), int(meta.get('epoch', -1))


def _missing_for_resume(checkpoint: Any) -> list[str]:
    if not isinstance(checkpoint, Mapping):
        return list(RUN_KEYS)
    missing = [key for key in RUN_KEYS if key not in checkpoint]
    return missing if _progress(checkpoint) >= (0, 0) else ['meta', *missing]


def _is_mask(name: str, names: Mapping[str, Any]) -> bool:
    return name.endswith('_mask') and name.removesuffix('_mask') in names


def _first(names: list[str], what: str, show: int = 3) -> list[str]:
    if not names:
        return []
    more = f' and {len(names) - show} more' if len(names) > show else ''
    return [f'{what} {", ".join(names[:show])}{more}'.strip()]
