"""The command-line tools, as a user runs them."""

import runpy
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture
def run_tool(monkeypatch):
    """A function: name of a tool, arguments -> what it exits with, None when all went well; in this process."""

    def run(name, *args):
        path = str(TOOLS / f'{name}.py')
        monkeypatch.setattr(sys, 'argv', [path, *map(str, args)])
        monkeypatch.setattr(sys, 'path', [*sys.path])
        try:
            runpy.run_path(path, run_name='__main__')
        except SystemExit as ended:
            return ended.code
        return None

    return run
