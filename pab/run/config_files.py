"""The config files that come with pab: where they are, and how they are named and inherited from elsewhere."""

import os
import posixpath
import re
from pathlib import Path

from ..checks import did_you_mean

# inside of an installed package, beside that of a checkout
_PACKAGE = Path(__file__).parents[1]
CONFIGS = _PACKAGE / 'configs' if (_PACKAGE / 'configs').is_dir() else _PACKAGE.with_name('configs')
PARTS = ('_base_', 'compare/budgets')  # which are no runs by themselves
HERE = '{{$PAB_CONFIGS:}}'  # for mmengine, which puts environment variables into the text of a config


def config_names() -> dict[str, Path]:
    """The configs and comparisons that come with pab: name, such as ``pab/quickstart``, -> file."""
    files = {path.relative_to(CONFIGS).with_suffix('').as_posix(): path for path in sorted(CONFIGS.rglob('*.py'))}
    return {name: path for name, path in files.items() if not name.startswith(PARTS)}


def find_config(name: str | os.PathLike, folder: str | os.PathLike = '') -> Path:
    """The file of a config: a path from a folder, or else the name of one that comes with pab, with or without ``.py``.

    Raises:
        FileNotFoundError: there is neither; names what is most like it.
    """
    path = Path(folder, name)
    return path if path.is_file() else _config_of_pab(os.fspath(name), f'there is no config {path}')


def _config_of_pab(name: str, otherwise: str) -> Path:
    known, wanted = config_names(), name.removesuffix('.py')
    if wanted not in known:
        hint = did_you_mean(wanted.removeprefix('configs/'), known)
        raise FileNotFoundError(f'{otherwise}; {hint and hint + " "}pab config --list names the configs of pab')
    return known[wanted]


def first_comment(path: Path) -> str:
    """The first line of the comment or docstring that a config begins with; '' if there is none."""
    match = re.match(r"""\s*(?:# *|["']+)([^\n]*)""", path.read_text(encoding='utf-8'))
    return match[1].rstrip('"\' ') if match else ''


def read_for_elsewhere(name: str) -> str:
    """The text of a config that comes with pab, whose ``_base_`` names its files wherever the text is.

    Raises:
        FileNotFoundError: as :func:`find_config`.
    """
    path = _config_of_pab(name, f'pab has no config {name}')
    folder = path.parent.relative_to(CONFIGS).as_posix()

    def base_from_anywhere(relative: re.Match) -> str:
        return f'{HERE}/{posixpath.normpath(f"{folder}/{relative[0]}")}'

    def bases_from_anywhere(bases: re.Match) -> str:
        return re.sub(r"(?<=')\.\.?/[^']*", base_from_anywhere, bases[0])

    return re.sub(r'(?ms)^_base_ = \[.*?\]', bases_from_anywhere, path.read_text(encoding='utf-8'), count=1)
