"""The scripts of docs/trainers.md, run as they stand there; those whose library is not installed are skipped."""

import os
import socket
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from tests.test_tools.test_readme import ROOT, block_after


@pytest.mark.parametrize('heading', ['A plain loop', 'accelerate', 'lightning', 'transformers', 'FSDP2'])
def test_a_script(heading, tmp_path):
    library = heading if heading.islower() else 'torch'
    if find_spec(library) is None:
        pytest.skip(f'{library} is not installed')
    if heading == 'FSDP2' and torch.__version__ < '2.7':
        pytest.skip('FSDP2 needs torch 2.7 on a CPU')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    alone = dict(RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])  # a library may be there alone
    run = subprocess.run(
        [sys.executable, '-c', block_after('trainers.md', f'\n## {heading}\n')],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': paths, 'OMP_NUM_THREADS': '1', **(alone if heading == 'FSDP2' else {})},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
