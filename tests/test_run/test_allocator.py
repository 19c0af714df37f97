"""A run on the CPU keeps its memory."""

import platform
import resource

import pytest
import torch
from mmengine.config import Config

from pab.run import launch
from pab.run.allocator import SETTINGS_OF_THE_USER, keep_freed_memory
from tests.small_run import run_in_child


def _count_faults():
    """Whether the memory is kept, and the page faults of 20 blocks of 16 MiB, which are 4,096 pages each."""
    done = keep_freed_memory()
    for _ in range(5):
        torch.ones(1 << 22)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(1 << 22)
    return done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc has the setting')
def test_freed_memory_serves_again(monkeypatch):
    for name in SETTINGS_OF_THE_USER:
        monkeypatch.delenv(name, raising=False)
    status, (done, count) = run_in_child(_count_faults)
    assert (status, done) == (0, True)
    assert count < 20 * 2000


@pytest.mark.parametrize('name', SETTINGS_OF_THE_USER)
def test_a_setting_of_the_user_stays(name, monkeypatch):
    monkeypatch.setenv(name, '1000000')
    assert not keep_freed_memory()


def test_every_tool_on_the_cpu_keeps_it(monkeypatch):
    called = []
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(launch, 'keep_freed_memory', lambda: called.append(True))
    with pytest.raises(SystemExit):
        launch.run(Config(dict(work_dir='')), lambda runner: None)
    assert called
