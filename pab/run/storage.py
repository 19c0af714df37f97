"""Writing files so that whoever reads them finds a whole one: the old or the new, whenever the power fails."""

import errno
import os
import shutil
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

ATOMIC = 'atomic'  # the backend's name in configs: backend_args=dict(backend='atomic')
PARTIAL = '.partial'  # ends the name of a file that is not written to its end


def write_atomically(data: bytes, path: str | os.PathLike) -> None:
    """Write a file by way of a temporary one in the same folder, forced to the disk and then renamed.

    Args:
        data: the whole content.
        path: where it belongs; missing folders are made. A file that is there is replaced at once or not at all.

    Raises:
        OSError: says which file could not be written, why, and that the one before is untouched.
    """
    path = Path(path)
    partial = path.with_name(f'.{path.name}{PARTIAL}')
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
        raise _explained(error, path, len(data)) from error


def check_writable(folder: str | os.PathLike) -> None:
    """Make a folder and a file in it, and remove the file again.

    Raises:
        OSError: says which folder cannot be written, and why.
    """
    probe = Path(folder) / f'.writable-{os.getpid()}{PARTIAL}'
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b'x')
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        told = OSError(f'work_dir {os.fspath(folder)!r} cannot be written: {reason}; choose another with --work-dir')
        told.errno = error.errno
        raise told from error


@register_backend(ATOMIC)
class AtomicBackend(LocalBackend):
    """mmengine's backend for local files, which writes them atomically, and removes old files after the next is there.

    mmengine's CheckpointHook makes room before it writes. Here :meth:`remove` only marks a file; what is marked goes
    when the next file stands in the same folder, so that a failed write takes no checkpoint with it.
    """

    _outdated: set[Path] = set()  # of the class, for mmengine makes a backend for each use

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Write a file, then remove what was marked in its folder; see :func:`write_atomically`."""
        write_atomically(obj, filepath)
        path = Path(filepath).absolute()
        self._outdated.discard(path)
        for old in [file for file in self._outdated if file.parent == path.parent]:
            self._outdated.discard(old)
            _discard(old)

    def put_text(self, obj: str, filepath: str | os.PathLike, encoding: str = 'utf-8') -> None:
        """Write a text file; see :func:`write_atomically`."""
        self.put(obj.encode(encoding), filepath)

    def remove(self, filepath: str | os.PathLike) -> None:
        """Mark a file; it goes with the next :meth:`put` into its folder."""
        if not Path(filepath).is_file():
            raise FileNotFoundError(f'AtomicBackend: there is no file {os.fspath(filepath)!r} to remove')
        self._outdated.add(Path(filepath).absolute())


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # a folder that cannot be written any more: the file does no harm
        return


def _sync_folder(folder: Path) -> None:
    if os.name != 'posix':
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot; the file itself is safe
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _explained(error: OSError, path: Path, size: int) -> OSError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        try:
            reason += f' ({size / 1e6:.1f} MB needed, {shutil.disk_usage(path.parent).free / 1e6:.1f} MB free)'
        except OSError:
            reason += f' ({size / 1e6:.1f} MB needed)'
    told = OSError(
        f'cannot write {str(path)!r}: {reason}; checkpoints written before are untouched, so free some space or give '
        'another --work-dir, and go on with --resume'
    )
    told.errno = error.errno
    return told
