"""From a comparison file to the trainings it asks for, everything checked before the first of them begins."""

import copy
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..checks import check_ints
from ..run.config import check_config, merge_options, suggest

KEYS = {'title', 'options', 'runs'}  # of a comparison file
RUN_KEYS = {'name', 'group', 'config', 'options', 'against', 'seeds'}
CONFIG_ERRORS = (ValueError, TypeError, KeyError, AttributeError, OSError, SyntaxError, ImportError, NameError)


@dataclass(frozen=True)
class Run:
    """A row of a comparison: one config, trained with several seeds."""

    group: str
    name: str
    against: str | None
    """The name of the run in the same group from whose accuracy this one's is told apart."""
    seeds: int
    folder: Path
    config: str
    """The whole config, as the text of a Python file."""
    imports: Path | None
    """The folder of the modules that the config imports, None where it imports none."""

    @property
    def title(self) -> str:
        """Group and name in one line."""
        return f'{self.group}: {self.name}' if self.group else self.name

    def trainings(self) -> list['Training']:
        """One training for each seed, which is counted from 0."""
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
    """What a comparison file asks for."""

    title: str
    runs: tuple[Run, ...]

    def trainings(self) -> list[Training]:
        """All trainings: those of the first seed come first, so that a whole table is there early."""
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
        path: a Python file with ``title``, ``runs`` and, if wanted, ``options``; docs/compare.md describes them.
        seeds: of each run, >= 1; a run may ask for fewer.
        work_dir: holds a folder for each run.
        options: replace values in every config, by dotted names, after those of the file.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: something in it, or in a config that it names, cannot be used.
    """
    if not path.is_file():
        raise FileNotFoundError(f'there is no comparison {path}; those that come with pab are in configs/compare/')
    check_ints('compare', seeds=seeds)
    file = Config.fromfile(str(path)).to_dict()
    _check_keys('comparison', [key for key in file if not key.startswith('_')], KEYS)
    title, entries, shared = file.get('title'), file.get('runs'), file.get('options', {})
    if not isinstance(title, str) or not title:
        raise ValueError(f'comparison: title must be a sentence that says what is compared, got {title!r}')
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError('comparison: runs must be a list of at least one dict(name=..., config=...)')
    _check_options('comparison', shared)
    runs = []
    for index, entry in enumerate(entries):
        _check_entry(f'runs[{index}]', entry)
        every = [shared, entry.get('options', {}), options or {}]
        runs.append(_plan_run(entry, path.parent, every, seeds, work_dir))
    _check_names(runs)
    return Comparison(title, tuple(runs))


def load_run_config(path: Path, options: Iterable[Mapping[str, Any]]) -> Config:
    """Read the config of a run, with options merged over it, and check that a comparison can read its result."""
    cfg = Config.fromfile(str(path))
    for some in options:
        merge_options(cfg, copy.deepcopy(dict(some)))  # merging takes _delete_ out of what it is given
    check_config(cfg)
    hooks = cfg.get('default_hooks') or {}
    kinds = [hook.get('type') for hook in [*hooks.values(), *(cfg.get('custom_hooks') or [])] if hook]
    if 'ReportHook' not in kinds:
        raise ValueError('the config has no ReportHook, whose report.json a comparison reads')
    if (hooks.get('checkpoint') or {}).get('out_dir'):
        raise ValueError('default_hooks.checkpoint.out_dir: a comparison keeps checkpoints in the folder of each run')
    return cfg


def _plan_run(
    entry: Mapping[str, Any], base: Path, options: Sequence[Mapping[str, Any]], seeds: int, work_dir: Path
) -> Run:
    group, name = entry.get('group', ''), entry['name']
    where = f'run {name!r} of group {group!r}' if group else f'run {name!r}'
    path = base / entry['config']
    if not path.is_file():
        raise ValueError(f'{where}: there is no config {path}; the path is relative to the comparison file')
    sys.path.append(str(path.parent.resolve()))  # modules of custom_imports may lie beside the config
    try:
        cfg = load_run_config(path, options)
        text = cfg.pretty_text
        if Config.fromstring(text, '.py').to_dict() != cfg.to_dict():
            raise ValueError('the config holds a value that a Python file cannot')
    except CONFIG_ERRORS as error:
        raise ValueError(f'{where}: {error.args[0] if isinstance(error, KeyError) else error}') from error
    return Run(
        group=group,
        name=name,
        against=entry.get('against'),
        seeds=min(seeds, entry.get('seeds', seeds)),
        folder=work_dir.absolute().joinpath(*(folder_name(part) for part in (group, name) if part)),
        config=text,
        imports=path.parent.resolve() if cfg.get('custom_imports') else None,
    )


def folder_name(name: str) -> str:
    """A name without what a shell or a file system would trip over: ``'SynFlow + Bop'`` -> ``'SynFlow_+_Bop'``."""
    return re.sub(r'[^\w+=.,-]+', '_', name).strip('._')


def _check_entry(where: str, entry: Mapping[str, Any]) -> None:
    _check_keys(where, entry, RUN_KEYS)
    for key in ('name', 'config'):
        if not isinstance(entry.get(key), str) or not entry[key]:
            raise ValueError(f'{where}: {key} must be a text that is not empty, got {entry.get(key)!r}')
    if not isinstance(entry.get('group', ''), str):
        raise ValueError(f'{where}: group must be a text, got {entry["group"]!r}')
    for name in filter(None, (entry['name'], entry.get('group', ''))):
        if not folder_name(name):
            raise ValueError(f'{where}: {name!r} has no letter or digit that its folder could be named by')
    check_ints(where, seeds=entry.get('seeds', 1))
    _check_options(where, entry.get('options', {}))


def _check_options(where: str, options: Any) -> None:
    if not isinstance(options, Mapping):
        raise ValueError(f'{where}: options must be a dict from dotted names to values, got {options!r}')


def _check_keys(where: str, keys: Iterable[str], known: set[str]) -> None:
    for key in keys:
        if key not in known:
            own = '; a name of your own begins with an underscore' if where == 'comparison' else ''
            raise ValueError(f'{where}: nothing reads the key {key!r}; {suggest(key, known, "known keys are")}{own}')


def _check_names(runs: Sequence[Run]) -> None:
    """Refuse names that are used twice, folders that would be shared, and runs to compare with that are not there."""
    for index, run in enumerate(runs):
        for other in runs[:index]:
            if (other.group, other.name) == (run.group, run.name):
                raise ValueError(f'runs: two runs are called {run.title!r}; names must be unique in a group')
            if other.folder == run.folder:
                raise ValueError(f'runs: {other.title!r} and {run.title!r} would share the folder {run.folder}')
        names = [other.name for other in runs if other.group == run.group and other is not run]
        if run.against is not None and run.against not in names:
            hint = f'; {suggest(str(run.against), names, "those are")}' if names else ''
            raise ValueError(f'{run.title}: against must name another run of its group, got {run.against!r}{hint}')
