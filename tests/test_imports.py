"""Imports of pab go from the top to the bottom, those inside functions too: no floor knows one above, and no circle."""

import ast
import functools
import graphlib
import re
from pathlib import Path

import pab

ROOT = Path(pab.__file__).parents[1]
FILES = {'.'.join(path.relative_to(ROOT).with_suffix('').parts): path for path in (ROOT / 'pab').rglob('*.py')}
FLOORS = [line.split(', ') for line in re.findall(r'^- (.*)$', pab.__doc__, re.MULTILINE)]


def imported(module: str) -> set[str]:
    """The modules of pab that one imports."""
    found, path = set(), FILES[module]
    package = module.split('.')[: None if path.name == '__init__.py' else -1]
    package = package[:-1] if path.name == '__init__.py' else package
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(
                [*package[: len(package) - node.level + 1], *filter(None, [node.module])]
                if node.level
                else [node.module]
            )
            names = [name if (name := f'{base}.{alias.name}') in MODULES else base for alias in node.names]
        else:
            continue
        found |= {MODULES[name] for name in names if name in MODULES}
    return found - {module, 'pab.__init__'}  # the latter has the version, and imports nothing


MODULES = {module.removesuffix('.__init__'): module for module in FILES}


@functools.cache
def imports() -> dict[str, set[str]]:
    """Module -> those that it imports; not read while tests are collected, which every process of them does."""
    return {module: imported(module) for module in FILES}


def part(module: str) -> str:
    return module.split('.')[1]


def folder(module: str) -> str:
    return module.rpartition('.')[0] if module.count('.') > 1 else module


def test_every_part_stands_on_one_floor():
    assert sorted(name for floor in FLOORS for name in floor) == sorted({part(m) for m in FILES} - {'__init__'})


def test_no_import_goes_up():
    height = {name: -number for number, floor in enumerate(FLOORS) for name in floor}
    wrong = [
        f'{module} -> {other}'
        for module, others in imports().items()
        for other in others
        if part(module) != part(other) and height[part(module)] <= height[part(other)]
    ]
    assert wrong == []
    assert sum(len(others) for others in imports().values()) > 250, 'nothing would have been compared'


def test_no_circle_of_files_or_of_folders():
    graphlib.TopologicalSorter(imports()).prepare()
    folders: dict[str, set[str]] = {}
    for module, others in imports().items():
        folders.setdefault(folder(module), set()).update({folder(other) for other in others} - {folder(module)})
    # a package's __init__ gathers the names of its folders, which is no use of them
    for package in {folder(module) for module in FILES if module.endswith('__init__')}:
        folders[package] = {other for other in folders.get(package, ()) if not other.startswith(f'{package}.')}
    graphlib.TopologicalSorter(folders).prepare()
