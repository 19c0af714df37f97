"""Fetch an archive of data, check it, and take only the files that are expected out of it."""

import os
import shutil
import tarfile
import urllib.error
from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import barrier, is_main_process
from torchvision.datasets.utils import download_url


def fetch_files(who: str, url: str, md5: str, folder: Path, members: Sequence[str]) -> None:
    """Download a tar archive into ``folder`` and write the files named ``members`` there, each whole or not at all.

    Only the main process works, the others wait. An archive that is there already and has the right checksum is used
    as it is.

    Args:
        who: the dataset, for messages.
        url: of the archive.
        md5: of the archive.
        folder: made when it is not there.
        members: paths inside the archive, and below ``folder``; nothing else is taken out.

    Raises:
        RuntimeError: no network, another checksum, or an archive without one of the members.
    """
    error = None
    if is_main_process():
        try:
            _fetch(who, url, md5, folder, members)
        except RuntimeError as failure:
            error = failure
    barrier()
    if error is not None:
        raise error


def _fetch(who: str, url: str, md5: str, folder: Path, members: Sequence[str]) -> None:
    archive = folder / os.path.basename(url)
    try:
        download_url(url, str(folder), md5=md5)
    except (urllib.error.URLError, OSError) as error:
        raise RuntimeError(
            f'{who}: cannot download {url} to {archive} ({error}); fetch it by other means, unpack it below {folder}'
        ) from error
    except RuntimeError as error:
        raise RuntimeError(
            f'{who}: {archive}, downloaded from {url}, does not have the md5 checksum {md5}; delete it and try again'
        ) from error
    with tarfile.open(archive) as tar:
        for name in members:
            try:
                source = tar.extractfile(name)
            except KeyError:
                source = None
            if source is None:
                raise RuntimeError(f'{who}: {archive} holds no file {name}; it is another archive')
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(target.name + '.part')
            with source, open(part, 'wb') as out:
                shutil.copyfileobj(source, out)
            os.replace(part, target)
