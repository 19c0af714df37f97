"""A comparison file, and the trainings it asks for, all checked before the first of them begins."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..checks import check_ints
from ..run.config import check_keys, read_config, suggest
from ..run.config_files import find_config
from .run_config import load_run_config

FILE_KEYS = {'title', 'environment', 'options', 'runs'}
ENTRY_KEYS = {'name', 'group', 'config', 'options', 'against', 'seeds'}  # of each of the runs
TABLE, TABLE_CSV, TABLE_PAGE = 'table.md', 'table.csv', 'report.html'  # beside the folders of the runs
JOBS, COMMAND = 'jobs', 'command.json'


@dataclass(frozen=True)
class Run:
    """A row of a comparison: one config, trained with several seeds.

    Attributes:
        against: name of the run in the same group with whose accuracy this one's is compared.
        config: the whole config, as the text of a Python file.
        imports: folder of the modules that the config imports, None if it imports none.
    """

    group: str
    name: str
    against: str | None
    seeds: int
    folder: Path
    config: str
    imports: Path | None

    @property
    def title(self) -> str:
        """Group and name in one line."""
        return f'{self.group}: {self.name}' if self.group else self.name

    def trainings(self) -> list['Training']:
        """One training for each seed from 0."""
        return [Training(self, seed) for seed in range(self.seeds)]


@dataclass(frozen=True)
class Training:
    """A run with one seed."""

    run: Run
    seed: int

    @property
    def folder(self) -> Path:
        """The work dir."""
        return self.run.folder / f'seed_{self.seed}'

    @property
    def title(self) -> str:
        """The run and the seed in one line."""
        return f'{self.run.title}, seed {self.seed}'


@dataclass(frozen=True)
class Comparison:
    """A comparison file, read and checked."""

    title: str
    runs: tuple[Run, ...]

    def trainings(self) -> list[Training]:
        """All trainings, first of the first seed, so that a whole table is there early."""
        return sorted((training for run in self.runs for training in run.trainings()), key=lambda t: t.seed)

    def sections(self) -> dict[str, list[Run]]:
        """The runs of each group, in the order of the file."""
        groups: dict[str, list[Run]] = {}
        for run in self.runs:
            groups.setdefault(run.group, []).append(run)
        return groups


def read_comparison(path: Path, seeds: int, work_dir: Path, options: Mapping[str, Any] | None = None) -> Comparison:
    """Read a comparison file and the configs that it names.

    Args:
        path: a Python file, or the name of one that comes with pab, that has ``title`` and ``runs``, and maybe
            ``environment`` and ``options``; see docs/compare.md.
        seeds: of each run, >= 1; a run may ask for fewer.
        work_dir: holds a folder for each run.
        options: replace values in every config, by dotted names, after those of the file.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it cannot be read, or something in it, or in a config that it names, cannot be used.
    """
    path = find_config(path)
    check_ints('compare', seeds=seeds)
    try:
        file = read_config(path).to_dict()
    except Exception as error:  # it is a program, which may raise anything
        raise ValueError(f'{path}: {_told(error)}') from error
    check_keys('comparison', [key for key in file if not key.startswith('_')], FILE_KEYS)
    title, entries, shared = file.get('title'), file.get('runs'), file.get('options', {})
    _require(title and isinstance(title, str), 'comparison', 'title', title, 'a sentence that says what is compared')
    dicts = isinstance(entries, list) and all(isinstance(entry, Mapping) for entry in entries)
    _require(entries and dicts, 'comparison', 'runs', entries, 'a list of at least one dict(name=..., config=...)')
    _check_options('comparison', shared)
    runs = []
    with _environment(file.get('environment', {})):
        for index, entry in enumerate(entries):
            _check_entry(f'runs[{index}]', entry)
            every = [shared, entry.get('options', {}), options or {}]
            runs.append(_plan_run(entry, path.parent, every, seeds, work_dir))
    _check_names(runs)
    return Comparison(title, tuple(runs))


def _plan_run(
    entry: Mapping[str, Any], base: Path, options: Sequence[Mapping[str, Any]], seeds: int, work_dir: Path
) -> Run:
    group, name = entry.get('group', ''), entry['name']
    where = f'run {name!r} of group {group!r}' if group else f'run {name!r}'
    try:
        path = find_config(entry['config'], base)
    except FileNotFoundError as error:
        raise ValueError(f'{where}: {error}; a path is relative to the comparison file') from error
    sys.path.append(str(path.parent.resolve()))  # modules of custom_imports may lie beside the config
    try:
        cfg = load_run_config(path, options)
        text = cfg.pretty_text
        if Config.fromstring(text, '.py').to_dict() != cfg.to_dict():
            raise ValueError('the config holds a value that a Python file cannot')
    except Exception as error:  # of the config, which is a program, or of any constructor
        raise ValueError(f'{where}: {_told(error)}') from error
    return Run(
        group=group,
        name=name,
        against=entry.get('against'),
        seeds=min(seeds, entry.get('seeds', seeds)),
        folder=work_dir.absolute().joinpath(*(folder_name(part) for part in (group, name) if part)),
        config=text,
        imports=path.parent.resolve() if cfg.get('custom_imports') else None,
    )


@contextmanager
def _environment(variables: Any) -> Iterator[None]:
    """Set environment variables, which configs read as ``{{$NAME:default}}``, within a block."""
    texts = isinstance(variables, Mapping) and all(isinstance(value, str) for value in variables.values())
    _require(texts, 'comparison', 'environment', variables, 'a dict from names of variables to texts')
    before = dict(os.environ)
    try:
        os.environ.update(variables)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _told(error: Exception) -> str:
    """The message of an error in one line, with its class unless it speaks for itself."""
    text = ' '.join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    return text if isinstance(error, ValueError | KeyError) else f'{type(error).__name__}: {text}'


def folder_name(name: str) -> str:
    """Make a name fit for shells and file systems: ``'SynFlow + Bop'`` -> ``'SynFlow_+_Bop'``."""
    return re.sub(r'[^\w+=.,-]+', '_', name).strip('._')


def _require(fits: Any, where: str, key: str, value: Any, rule: str) -> None:
    if not fits:
        raise ValueError(f'{where}: {key} must be {rule}, got {value!r}')


def _check_entry(where: str, entry: Mapping[str, Any]) -> None:
    check_keys(where, entry, ENTRY_KEYS)
    for key in ('name', 'config'):
        value = entry.get(key)
        _require(value and isinstance(value, str), where, key, value, 'a text that is not empty')
    group = entry.get('group', '')
    _require(isinstance(group, str), where, 'group', group, 'a text')
    for name in filter(None, (entry['name'], group)):
        if not name.isprintable():
            raise ValueError(f'{where}: a name must be one line of printable characters, got {name!r}')
        if not folder_name(name):
            raise ValueError(f'{where}: {name!r} has no letter or digit that its folder could be named by')
    check_ints(where, seeds=entry.get('seeds', 1))
    _check_options(where, entry.get('options', {}))


def _check_options(where: str, options: Any) -> None:
    _require(isinstance(options, Mapping), where, 'options', options, 'a dict from dotted names to values')
    if wrong := [name for name in options if not isinstance(name, str)]:
        raise ValueError(f'{where}: options must have dotted names as keys, got {wrong[0]!r}')


def _check_names(runs: Sequence[Run]) -> None:
    """Refuse names used twice, shared folders, and ``against`` without such a run."""
    for index, run in enumerate(runs):
        top = folder_name(run.group or run.name)
        if top in (TABLE, TABLE_CSV, TABLE_PAGE, JOBS, COMMAND) or top.endswith('.png'):
            raise ValueError(f'{run.title}: the comparison itself writes {top}; call the run or the group another name')
        for other in runs[:index]:
            if (other.group, other.name) == (run.group, run.name):
                raise ValueError(f'runs: two runs are called {run.title!r}; names must be unique in a group')
            if other.folder == run.folder:
                raise ValueError(f'runs: {other.title!r} and {run.title!r} would share the folder {run.folder}')
        names = [other.name for other in runs if other.group == run.group and other is not run]
        if run.against is not None and run.against not in names:
            hint = f'; {suggest(str(run.against), names, "those are")}' if names else ''
            raise ValueError(f'{run.title}: against must name another run of its group, got {run.against!r}{hint}')
