"""Imports in a new process, and the time of pab train to its first step."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .timing import Row, Settings, alternate, median_and_spread, row

ROOT = Path(__file__).parents[2]
PEER = 'import torch, mmengine'
IMPORTS = {
    'import pab': 'import pab',
    'import every part of pab': 'import pab.run, pab.hooks, pab.models, pab.optim, pab.datasets, pab.evaluation',
    PEER: PEER,
}


def measure(settings: Settings) -> list[Row]:
    """Each run is a new process."""
    few = Settings('cpu', min(settings.repeats, 3), min(settings.warmup, 1))
    seconds = alternate({name: _python(code) for name, code in IMPORTS.items()}, few)
    rows = [row('start', 'new process', name, seconds, None if name == PEER else PEER) for name in IMPORTS]
    median, spread = median_and_spread(alternate({'train': _first_step}, few)['train'])
    return [*rows, Row('start', 'quickstart, not compiled', 'pab train to its first step', median, spread, 's')]


def _python(code: str):
    # in the root, so that a checkout that is not installed is found, too
    return lambda: subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True) and None


def _first_step() -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, '-m', 'pab', 'train', 'pab/quickstart', '--work-dir', folder]
        command += ['--cfg-options', 'default_hooks.logger.interval=1']
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, 'PAB_COMPILE': '0', 'PYTHONUNBUFFERED': '1'},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        printed = []
        try:
            for line in process.stdout:
                printed.append(line)
                if 'Epoch(train)' in line:
                    return time.perf_counter() - start
        finally:
            process.kill()
            process.communicate()
    raise RuntimeError(f'{" ".join(command)} ended before its first step:\n{"".join(printed[-20:])}')
