"""A run on the CPU keeps its memory."""

import os
import platform
import subprocess
import sys

import pytest
from mmengine.config import Config

from pab.run import launch
from pab.run.allocator import SETTINGS_OF_THE_USER

CODE = """
import resource
from pab.run.allocator import keep_freed_memory
import torch
print(keep_freed_memory())
for _ in range(5):
    torch.ones(1 << 22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(1 << 22)  # 16 MiB: 4,096 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**variables):
    env = {name: value for name, value in os.environ.items() if name not in SETTINGS_OF_THE_USER}
    printed = subprocess.run(
        [sys.executable, '-c', CODE], env={**env, **variables}, check=True, capture_output=True, text=True
    ).stdout.split()
    return printed[0] == 'True', int(printed[1])


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc has the setting')
def test_freed_memory_serves_again():
    done, count = faults()
    assert done
    assert count < 20 * 2000


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc has the setting')
def test_a_setting_of_the_user_stays():
    done, _ = faults(MALLOC_MMAP_THRESHOLD_='1000000')
    assert not done


def test_every_tool_on_the_cpu_keeps_it(monkeypatch):
    called = []
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(launch, 'keep_freed_memory', lambda: called.append(True))
    with pytest.raises(SystemExit):
        launch.run(Config(dict(work_dir='')), lambda runner: None)
    assert called
