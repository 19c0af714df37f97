"""Runs that several files look at, each made once."""

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.small_run import run_in_child, small_config, train, train_and_kill


class Finished(NamedTuple):
    """A run that was never stopped."""

    folder: Path
    end: dict


@pytest.fixture(scope='session')
def finished(tmp_path_factory) -> Finished:
    """The small run as it is: its work dir, which is not to be changed, and the state it ended in."""
    folder = tmp_path_factory.mktemp('finished')
    status, end = run_in_child(train, small_config(folder))
    assert status == 0, end
    return Finished(folder, end)


@pytest.fixture(scope='session')
def stopped(tmp_path_factory) -> Path:
    """The file of the first epoch of the small run, which was killed in the second."""
    folder = tmp_path_factory.mktemp('stopped')
    assert run_in_child(train_and_kill, small_config(folder), 15, 'after')[0] == -9
    return folder / 'epoch_1.pth'
