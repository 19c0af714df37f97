"""Jobs of several processes, started as a user starts them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TIMEOUT = 300  # seconds; a job takes some ten on an idle machine


def launch(*command: object, **environment: str) -> subprocess.CompletedProcess:
    """Run a command, on the CPU and with one thread for each process, and end all of its processes when it hangs."""
    env = {key: value for key, value in os.environ.items() if not key.startswith('TORCHELASTIC')}
    env |= {'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'PYTHON': sys.executable}
    job = subprocess.Popen(
        [str(part) for part in command],
        env=env | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = job.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        output, _ = job.communicate()
        raise AssertionError(f'{command} did not end:\n{output}') from None
    return subprocess.CompletedProcess(command, job.returncode, output)


def torchrun(processes: int, script: Path, *arguments: object) -> subprocess.CompletedProcess:
    """Run a script in several processes that meet on a free port."""
    options = ('--standalone', '--local-addr=127.0.0.1', f'--nproc-per-node={processes}')
    return launch(sys.executable, '-m', 'torch.distributed.run', *options, script, *arguments)
