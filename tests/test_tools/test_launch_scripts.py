"""The command lines that the launch scripts make, without running them."""

import os
import shlex
import subprocess

import pytest

from pab.hooks.guards.interrupt import resume_command
from tests.launching import ROOT


def script(name, *arguments, **environment):
    clean = {key: value for key, value in os.environ.items() if key in ('PATH', 'HOME')}
    command = [str(ROOT / 'tools' / name), *arguments]
    return subprocess.run(command, env=clean | {'PYTHON': 'echo'} | environment, capture_output=True, text=True)


def test_one_machine_takes_a_free_port():
    line = script('dist_train.sh', 'c.py', '8', '--seed', '1', TORCHRUN_ARGS='--max-restarts 3').stdout
    assert '--standalone' in line
    assert '--nproc-per-node=8 --max-restarts 3' in line
    assert line.strip().endswith('train.py c.py --seed 1 --launcher pytorch')


def test_several_machines_meet_at_the_first():
    line = script('dist_train.sh', 'c.py', '8', NNODES='2', NODE_RANK='1', MASTER_ADDR='10.0.0.1', PORT='1234').stdout
    assert '--nnodes=2 --node-rank=1 --master-addr=10.0.0.1 --master-port=1234 --nproc-per-node=8' in line


def test_evaluation():
    line = script('dist_test.sh', 'c.py', 'epoch_1.pth', '4').stdout
    assert line.strip().endswith('test.py c.py epoch_1.pth --launcher pytorch')
    assert '--nproc-per-node=4' in line


def test_slurm(tmp_path):
    (tmp_path / 'srun').write_text('#!/bin/sh\necho srun "$@"\n')
    (tmp_path / 'srun').chmod(0o755)
    path = f'{tmp_path}:{os.environ["PATH"]}'
    line = script('slurm_train.sh', 'gpu', 'name', 'c.py', 'dir', '--resume', GPUS='16', SRUN_ARGS='--qos x', PATH=path)
    assert '--gres=gpu:8 --ntasks=16 --ntasks-per-node=8' in line.stdout
    assert '--kill-on-bad-exit=1 --qos x echo -u' in line.stdout
    assert line.stdout.strip().endswith('train.py c.py --work-dir=dir --launcher=slurm --resume')


def test_the_command_that_goes_on_works_outside_srun(tmp_path):
    (tmp_path / 'srun').write_text('#!/bin/sh\necho "$PAB_COMMAND"\n')
    (tmp_path / 'srun').chmod(0o755)
    path = f'{tmp_path}:{os.environ["PATH"]}'
    options = dict(GPUS='2', ON_CPU='1', SRUN_ARGS='--qos x', PATH=path)
    printed = script('slurm_train.sh', 'gpu', 'a name', 'c.py', 'dir', '--overwrite', **options).stdout
    command = resume_command(['train.py', 'c.py'], {'PAB_COMMAND': printed})
    start = shlex.split(command)
    assert start[:4] == ['env', 'GPUS=2', 'ON_CPU=1', 'SRUN_ARGS=--qos x']
    assert start[-5:] == ['gpu', 'a name', 'c.py', 'dir', '--resume']
    again = subprocess.run(['bash', '-c', command], env={'PATH': path}, capture_output=True, text=True)
    assert shlex.split(again.stdout) == start


@pytest.mark.parametrize(
    ('name', 'arguments', 'environment', 'message'),
    [
        ('dist_train.sh', ['c.py'], {}, 'tools/dist_train.sh CONFIG GPUS'),
        ('dist_test.sh', ['c.py', '2'], {}, 'tools/dist_test.sh CONFIG CHECKPOINT GPUS'),
        ('slurm_train.sh', [], {}, 'tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR'),
        ('dist_train.sh', ['c.py', 'two'], {}, "must be integers >= 1, got 'two'"),
        ('dist_train.sh', ['c.py', '2'], dict(NNODES='2'), 'need MASTER_ADDR'),
    ],
)
def test_wrong_calls(name, arguments, environment, message):
    result = script(name, *arguments, **environment)
    assert result.returncode == 2
    assert message in result.stderr
