"""What tests of every part share: the reference numbers, real images, the config of a small run, and who runs what."""

import functools
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

# Tests are small and some start processes: threads would only wait for each other. Set before torch is imported.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('PAB_COMPILE', '0')  # a compilation takes seconds; tests of compiled loops ask for them

# What takes seconds to import is imported in fixtures: the process that hands out tests runs none.
TOOLS = Path(__file__).parents[1] / 'tools'
COMPILED = {'test_optim', 'test_psg', 'test_narrowing', 'test_export.py', 'test_export_tool.py', 'test_benchmark.py'}


@functools.cache
def together(file: Path) -> str:
    """Name what a file of tests shares with others: they run in one process of ``pytest -n``, so that it starts once.

    It is a server of processes (:mod:`tests.small_run`), or torch's compilers; else the fixtures of the file itself.
    """
    if re.search('run_in_child|run_ranks', file.read_text()):
        return 'children of runs' if file.parent.name == 'test_run' else 'children'
    return 'compiled' if COMPILED & {*file.parts} else str(file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give one process what belongs together."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return together(config.rootpath / nodeid.partition('::')[0])

    config.option.loadscopereorder = False  # the order is that of pytest_collection_modifyitems
    return Together(config, log)


def pytest_collection_modifyitems(items):
    """Put the longest parts first, so that no process waits for them in the end."""
    items.sort(key=lambda item: together(item.path).endswith('.py'))


@pytest.fixture(scope='session')
def golden_folder() -> Path:
    """The folder of reference numbers: inputs and outputs of the research code."""
    return Path(__file__).parent / 'golden'


@pytest.fixture(scope='session')
def unpacked(tmp_path_factory):
    """A function: name of a data set -> the folder it is in, unpacked once: in ``$PAB_TEST_CACHE``, else anew."""
    shared = Path(os.environ.get('PAB_SHARED', Path(__file__).parents[2] / 'shared'))
    script = shared / 'tools' / 'unpack_data.py'
    base = tmp_path_factory.getbasetemp()
    # the workers of pytest -n have folders of their own inside of one that they share
    folder = Path(os.environ.get('PAB_TEST_CACHE') or (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base))

    def unpack(name: str) -> Path:
        from filelock import FileLock  # comes with torch

        if not script.is_file():
            pytest.skip(f'no real images: there is no {script}; set PAB_SHARED to the folder that holds tools and data')
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f'{name}.lock'):
            subprocess.run([sys.executable, str(script), str(folder), name], check=True, capture_output=True)
        return folder

    return unpack


@pytest.fixture(scope='session')
def photographs(unpacked) -> Path:
    """The folder with imagenet/train and imagenet/val: 1,000 photographs of 1,000 classes."""
    return unpacked('imagenet')


@pytest.fixture(scope='session')
def cifar10_root(unpacked) -> Path:
    """The folder with cifar-10-batches-py."""
    return unpacked('cifar10')


@pytest.fixture(autouse=True, scope='session')
def _no_layout():
    """Write configs as they are: laying out their text, as tests that start processes do, takes longer than a check."""
    import mmengine.config.config
    import mmengine.model.utils

    mmengine.config.config.FormatCode = lambda text, **_: (text, True)
    mmengine.model.utils.mmcv_full_available = lambda: False  # which looks for it once for each layer of a network


@pytest.fixture(autouse=True)
def _seed():
    import torch

    torch.manual_seed(0)


@pytest.fixture
def untraced(monkeypatch):
    """Count costs as of a network that torch.export cannot follow, which takes a second for one that it can."""

    def refuse(*_):
        raise ValueError('not followed')

    monkeypatch.setattr('pab.costs.run.find_cuts', refuse)


@pytest.fixture
def tiny_config(tmp_path):
    """A function: changes -> the config of a whole run in seconds (see :func:`tests.small_run.small_config`)."""
    from tests.small_run import small_config

    return lambda **changes: small_config(**{'work_dir': tmp_path / 'run', 'digits': True, **changes})


@pytest.fixture
def tool(monkeypatch, capfd):
    """A function: a script of tools/ and arguments -> what it printed, and 0 or the argument of its ``sys.exit``.

    It runs in this process, because starting another costs seconds; the tests of the README and of jobs start some.
    """

    def run(name, *args):
        monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
        monkeypatch.setattr(sys, 'path', [*sys.path])
        status = 0
        try:
            runpy.run_path(str(TOOLS / name), run_name='__main__')
        except SystemExit as ended:
            status = ended.code
        return ''.join(capfd.readouterr()), status

    return run


class Finished(NamedTuple):
    """A run that was never stopped."""

    folder: Path
    end: dict


@pytest.fixture(scope='session')
def finished(tmp_path_factory) -> Finished:
    """The small run as it is: its work dir, which is not to be changed, and the state it ended in."""
    from tests.small_run import run_in_child, small_config, train

    folder = tmp_path_factory.mktemp('finished')
    status, end = run_in_child(train, small_config(folder))
    assert status == 0, end
    return Finished(folder, end)


@pytest.fixture(scope='session')
def stopped(tmp_path_factory) -> Path:
    """The file of the first epoch of the small run, which was killed in the second."""
    from tests.small_run import run_in_child, small_config, train_and_kill

    folder = tmp_path_factory.mktemp('stopped')
    assert run_in_child(train_and_kill, small_config(folder), 15, 'after')[0] == -9
    return folder / 'epoch_1.pth'
