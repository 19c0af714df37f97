"""Fetch an archive of data, check it, and take only the files that are expected out of it."""

import hashlib
import os
import shutil
import tarfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import barrier, is_main_process


def fetch_files(who: str, url: str, md5: str, folder: Path, members: Sequence[str]) -> None:
    """Download a tar archive into ``folder`` and write the files named ``members`` there, each whole or not at all.

    Only the main process works, the others wait; all have to call it. When all members are there, nothing is done. An
    archive that is there already and has the right checksum is used as it is.

    Args:
        who: the dataset, for messages.
        url: of the archive.
        md5: of the archive.
        folder: made when it is not there.
        members: paths inside the archive, and below ``folder``; nothing else is taken out.

    Raises:
        OSError: no network, another checksum, or an archive without one of the members.
    """
    error = None
    if is_main_process() and not all((folder / member).is_file() for member in members):
        try:
            _fetch(who, url, md5, folder, members)
        except Exception as failure:  # raised after the barrier, at which the others wait
            error = failure
    barrier()
    if error is not None:
        raise error


def _fetch(who: str, url: str, md5: str, folder: Path, members: Sequence[str]) -> None:
    archive = folder / url.rsplit('/', 1)[-1]
    if not (archive.is_file() and _md5(archive) == md5):
        try:
            _download(url, archive)
        except OSError as error:  # URLError is one
            raise OSError(
                f'{who}: cannot download {url} to {archive} ({error}); '
                f'fetch it by other means and unpack it below {folder}'
            ) from error
        if _md5(archive) != md5:
            raise OSError(
                f'{who}: {archive}, downloaded from {url}, has the md5 checksum {_md5(archive)}, not {md5}; '
                'delete it and try again'
            )
    with tarfile.open(archive) as tar:
        for name in members:
            try:
                source = tar.extractfile(name)
            except KeyError:
                source = None
            if source is None:
                raise OSError(f'{who}: {archive} holds no file {name}; it is another archive')
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(target.name + '.part')
            with source, open(part, 'wb') as out:
                shutil.copyfileobj(source, out)
            os.replace(part, target)


def _download(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    with urllib.request.urlopen(url, timeout=60) as source, open(part, 'wb') as out:
        shutil.copyfileobj(source, out)
    os.replace(part, path)


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
