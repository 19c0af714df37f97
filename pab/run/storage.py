"""Where a run's files are: fetched by their address, checkpoints kept until newer ones are there."""

import functools
import glob
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote, urlparse

import mmengine.visualization
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import print_log
from torch.hub import download_url_to_file

from ..files import discard, reason_of, write_atomically
from ..registry import VISUALIZERS

SMALL_FILES = 1 << 16  # bytes of what a run writes beside its checkpoints, at least
ATOMIC = 'atomic'  # the backend's name in configs: backend_args=dict(backend='atomic')


def download(address: str, folder: Path) -> str:
    """Bring a file into a folder, anew each time, and return its path; one of ``file://`` stays where it is.

    Raises:
        ValueError: the address does not begin with file://, http:// or https://.
        OSError: the file cannot be fetched.
    """
    parts = urlparse(address)
    if parts.scheme == 'file':
        return unquote(parts.path)
    if parts.scheme not in ('http', 'https'):
        raise ValueError(f'load_from: must be a path or an address of file, http or https, got {address!r}')
    target = folder / (Path(unquote(parts.path)).name or 'checkpoint.pth')
    folder.mkdir(parents=True, exist_ok=True)
    try:
        download_url_to_file(address, str(target), progress=False)
    except URLError as error:
        raise OSError(f'load_from: cannot fetch {address}: {error}') from error
    return str(target)


def check_writable(folder: str | os.PathLike) -> None:
    """Make a folder, and raise an OSError that says why if no file of ``SMALL_FILES`` bytes can be written in it."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(SMALL_FILES))
    except OSError as error:
        reason = reason_of(error, folder, SMALL_FILES)
        raise OSError(
            f'work_dir {os.fspath(folder)!r} cannot be written: {reason}; choose another with --work-dir'
        ) from error


class LogFile(logging.FileHandler):
    """A log that says once that its file cannot be written, where logging prints a traceback for every line."""

    _failed = False  # of the class: a handler becomes one after it was made

    def handleError(self, record: logging.LogRecord) -> None:
        """Say so, on standard error."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed:
            self._failed = True
            reason = reason_of(error, Path(self.baseFilename).parent)
            print(f'the log {self.baseFilename} cannot be written: {reason}; the run goes on', file=sys.stderr)


def _or_warn(record: Callable[..., None]) -> Callable[..., None]:
    """A method of the visualizer that warns, the first time, where it would raise an OSError."""

    @functools.wraps(record)
    def recorded(self: mmengine.visualization.Visualizer, *args, **kwargs) -> None:
        try:
            record(self, *args, **kwargs)
        except OSError as error:
            if not self._failed:
                folder = next(iter(self._vis_backends.values()))._save_dir  # which has no public name
                told = f'the scalars in {folder} are not complete: {reason_of(error, folder)}; the training goes on'
                print_log(told, 'current', logging.WARNING)
            self._failed = True

    return recorded


@VISUALIZERS.register_module()
class Visualizer(mmengine.visualization.Visualizer):
    """mmengine's, with a warning, the first time, where the config, scalars or a picture cannot be written."""

    _failed = False
    add_config = _or_warn(mmengine.visualization.Visualizer.add_config)
    add_scalar = _or_warn(mmengine.visualization.Visualizer.add_scalar)
    add_scalars = _or_warn(mmengine.visualization.Visualizer.add_scalars)
    add_image = _or_warn(mmengine.visualization.Visualizer.add_image)


@register_backend(ATOMIC)
class AtomicBackend(LocalBackend):
    """mmengine's backend for local files, which writes them atomically, and removes old files after the next is there.

    mmengine's CheckpointHook makes room before it writes. Here :meth:`remove` only marks a file; what is marked goes
    when the next file stands in the same folder, so that a failed write takes no checkpoint with it.
    """

    _outdated: set[Path] = set()  # of the class, for mmengine makes a backend for each use

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Write a file, then remove what was marked in its folder, and what a killed run left of the same file."""
        path = Path(filepath).absolute()
        try:
            write_atomically(obj, filepath)
        except OSError as error:
            raise OSError(
                f'{error}; checkpoints written before are untouched, so free some space or give another --work-dir, '
                'and go on with --resume'
            ) from error
        for left in path.parent.glob(f'.{glob.escape(path.name)}.*partial'):  # only one run writes into this folder
            discard(left)
        beside = {old for old in self._outdated if old.parent == path.parent}
        self._outdated.difference_update(beside)
        for old in beside - {path}:
            discard(old)

    def remove(self, filepath: str | os.PathLike) -> None:
        """Mark a file; it goes with the next :meth:`put` into its folder."""
        if not Path(filepath).is_file():
            raise FileNotFoundError(f'AtomicBackend: there is no file {os.fspath(filepath)!r} to remove')
        self._outdated.add(Path(filepath).absolute())
