"""Files: written so that whoever reads them finds the old or the new one whole, and fetched from where they are."""

import contextlib
import errno
import glob
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote, urlparse

from mmengine.fileio import LocalBackend, register_backend
from torch.hub import download_url_to_file

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


def write_atomically(data: bytes, path: str | os.PathLike) -> None:
    """Write a file by way of a temporary one in the same folder, forced to the disk and then renamed.

    Missing folders are made. A file that is there is replaced at once or not at all; an OSError says why not. Where
    several processes write the same file, each has a temporary one of its own, and the last to be renamed stays.
    """
    path = Path(path)
    partial = path.with_name(f'.{path.name}.{uuid.uuid4().hex[:12]}.partial')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open('wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        _discard(partial)
        reason = error.strerror
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(path.parent).free
            reason += f' ({len(data) / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free)'
        raise OSError(f'cannot write {str(path)!r}: {reason}') from error


def check_writable(folder: str | os.PathLike) -> None:
    """Make a folder, and raise an OSError that says why if no file can be written in it."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        told = f'work_dir {os.fspath(folder)!r} cannot be written: {error.strerror}; choose another with --work-dir'
        raise OSError(told) from error


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
            _discard(left)
        beside = {old for old in self._outdated if old.parent == path.parent}
        self._outdated.difference_update(beside)
        for old in beside - {path}:
            _discard(old)

    def remove(self, filepath: str | os.PathLike) -> None:
        """Mark a file; it goes with the next :meth:`put` into its folder."""
        if not Path(filepath).is_file():
            raise FileNotFoundError(f'AtomicBackend: there is no file {os.fspath(filepath)!r} to remove')
        self._outdated.add(Path(filepath).absolute())


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):  # in a folder that cannot be written any more the file does no harm
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot; the file itself is safe
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
