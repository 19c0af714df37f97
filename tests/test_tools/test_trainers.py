"""The scripts of docs/trainers.md, run as they stand there; those whose library is not installed are skipped."""

import os
import socket
from importlib.util import find_spec

import pytest
import torch

from tests.small_run import run_in_child
from tests.test_tools.test_readme import block_after


def _run(script, folder, variables):
    """Run a script in a folder, in this process."""
    os.chdir(folder)
    os.environ.update(variables)
    exec(compile(script, 'script', 'exec'), {'__name__': '__main__'})


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
    script = block_after('trainers.md', f'\n## {heading}\n')
    assert run_in_child(_run, script, tmp_path, alone if heading == 'FSDP2' else {}) == (0, None)
