"""Where data lie: the folder that a dataset reads from, and what is said when a file is not there."""

import os
from pathlib import Path

ENVIRONMENT = 'PAB_DATA'
DEFAULT = 'data'


def data_folder(data_root: str | Path | None = None) -> Path:
    """Return ``data_root``, else the environment variable ``PAB_DATA``, else ``data`` below the working directory.

    The variable is read when this is called, so it may be set after pab was imported.
    """
    return Path(data_root or os.environ.get(ENVIRONMENT) or DEFAULT).expanduser()


def missing_data(who: str, path: Path, ways_out: str) -> FileNotFoundError:
    """Return the error for a file or folder that is not there: what, where it was looked for, how to get it."""
    return FileNotFoundError(
        f'{who}: {path.name} is missing, looked for it at {path.absolute()}; {ways_out}, or point data_root or the '
        f'environment variable {ENVIRONMENT} (now {os.environ.get(ENVIRONMENT)!r}) to the folder that holds the data'
    )
