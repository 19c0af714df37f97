"""Files that whoever reads them finds whole, the old one or the new one; text of tables; the networks of pab."""

import contextlib
import csv
import errno
import io
import os
import shutil
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parent
# trained networks that come with pab: inside of an installed package, beside that of a checkout
ZOO = _PACKAGE / 'zoo' if (_PACKAGE / 'zoo').is_dir() else _PACKAGE.with_name('zoo')
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # numbers of errors for want of space


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
        discard(partial)
        raise OSError(f'cannot write {str(path)!r}: {reason_of(error, path.parent, len(data))}') from error


def reason_of(error: OSError, folder: str | os.PathLike, needed: int | None = None) -> str:
    """Why a folder cannot be written: in the system's words and, where it is full, the bytes needed and free there."""
    reason = error.strerror or str(error)
    if error.errno not in FULL:
        return reason
    try:
        free = f'{_amount(shutil.disk_usage(folder).free)} free'
    except OSError:  # the folder is gone as well
        return reason
    return f'{reason} ({free})' if needed is None else f'{reason} ({_amount(needed)} needed, {free})'


def _amount(size: int) -> str:
    return f'{size} bytes' if size < 1e3 else f'{size / 1e3:.0f} kB' if size < 999_500 else f'{size / 1e6:.1f} MB'


def find_trained(file: str | os.PathLike) -> Path:
    """The path of a file, or of the network with this name that comes with pab (``zoo/README.md``).

    Raises:
        FileNotFoundError: a bare name without an ending is neither; lists the known ones.
    """
    path = Path(file).expanduser()
    if path.exists() or path.suffix or path.name != os.fspath(file):
        return path
    if not (known := ZOO / f'{path.name}.pab').is_file():
        names = ', '.join(sorted(each.stem for each in ZOO.glob('*.pab'))) or 'none here'
        raise FileNotFoundError(f'there is no file {file}, and no network of this name in pab, which has {names}')
    return known


def check_free(path: str | os.PathLike, overwrite: bool) -> None:
    """Raise FileExistsError if a file is there that must not be written over."""
    if Path(path).expanduser().exists() and not overwrite:
        raise FileExistsError(f'{path} exists; choose another file, or pass --force (overwrite=True) to write over it')


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV; an apostrophe begins a text that a spreadsheet would compute as a formula, numbers stay."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    for row in rows:
        writer.writerow([_no_formula(cell) if isinstance(cell, str) else cell for cell in row])
    return out.getvalue()


def _no_formula(text: str) -> str:
    return f"'{text}" if text.startswith(('=', '+', '-', '@', '\t', '\r')) else text


def discard(path: Path) -> None:
    """Remove a file if it is there and can be removed."""
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
