"""Trainings as jobs of a real Slurm: its two daemons run on this machine, where Debian's slurm-wlm is installed."""

import os
import shutil
import socket
import subprocess
import threading
import time

import pytest
import torch

from pab.compare.cluster import JobTrainer, train_on_cluster
from pab.compare.plan import Training
from pab.compare.results import read_result
from pab.compare.training import TrainingFailed, TrainingStopped
from tests.launching import ROOT, launch
from tests.small_run import small_config
from tests.test_compare.fakes import events, fake_command, make_run, until

pytestmark = pytest.mark.slow
WAIT = 100  # seconds; a job takes some five on an idle machine
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
KillWait=20
JobRequeue=0
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=low Nodes=ALL Default=YES PriorityTier=1
PartitionName=high Nodes=ALL PriorityTier=9
"""


def slurm(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def configure(folder):
    """Write the settings of a cluster of this machine alone, on free ports."""
    sockets = [socket.create_server(('127.0.0.1', 0)) for _ in range(2)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    (folder / 'state').mkdir(parents=True)
    (folder / 'spool').mkdir()
    config = folder / 'slurm.conf'
    config.write_text(CONFIG.format(folder=folder, ports=ports, host=socket.gethostname().split('.')[0]))
    return config


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    pytest.importorskip('submitit')
    if missing := [name for name in ('slurmctld', 'slurmd', 'sbatch') if not shutil.which(name)]:
        pytest.skip(f'there is no {", ".join(missing)}: apt-get install slurm-wlm')
    if os.getuid():
        pytest.skip('only root may run the daemons of Slurm')
    folder = tmp_path_factory.mktemp('slurm')
    config, patch = configure(folder), pytest.MonkeyPatch()
    patch.setenv('SLURM_CONF', str(config))
    with (folder / 'out').open('wb') as out:
        daemons = [subprocess.Popen([name, '-D'], stdout=out, stderr=out) for name in ('slurmctld', 'slurmd')]
    try:
        idle = ['sinfo', '--noheader', '--partition=low', '--format=%T']
        until(lambda: subprocess.run(idle, capture_output=True, text=True).stdout.strip() == 'idle', 30)
        yield
        slurm('scancel', '--user=root')
        until(lambda: not slurm('squeue', '--noheader'), 60)  # what runs a job would wait for the controller for ever
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()
        patch.undo()


class Command:
    """``tools/compare.py --cluster slurm`` in a thread, once the job is submitted or found."""

    def __init__(self, tmp_path, training):
        self.ended, found = {}, threading.Event()

        def trainings():
            yield training
            found.set()

        options = {'slurm_partition': 'low', 'cpus_per_task': 1}
        arguments = JobTrainer(fake_command(tmp_path)), trainings(), 'slurm', tmp_path / 'jobs', options
        self.thread = threading.Thread(
            target=train_on_cluster, args=(*arguments, self.ended.__setitem__, 0.2), daemon=True
        )
        self.thread.start()
        assert found.wait(60)

    def wait(self):
        """Training -> what it ended by."""
        self.thread.join(WAIT)
        assert not self.thread.is_alive()
        return self.ended


def job_of(training):
    return (training.folder / 'job').read_text().split()[1]


def state(number):
    return slurm('squeue', '--noheader', '--states=all', f'--jobs={number}', '--format=%T')


def start_again(number):
    """Start a job that was requeued; Slurm would wait for two minutes."""
    until(lambda: state(number) == 'PENDING', WAIT)
    slurm('scontrol', 'update', f'JobId={number}', 'StartTime=now')


def test_a_training_that_is_preempted_goes_on_and_is_never_started_twice(cluster, tmp_path):
    training = Training(make_run(tmp_path, 'slow'), 0)
    first = Command(tmp_path, training)
    until(lambda: events(training), WAIT)
    number = job_of(training)
    slurm('sbatch', '--partition=high', '--cpus-per-task=2', '--output=/dev/null', '--wrap', 'sleep 1')
    until(lambda: len(events(training)) == 2, WAIT)
    second = Command(tmp_path, training)  # the command is given again while the job waits
    start_again(number)
    until(lambda: len(events(training)) == 3, WAIT)
    (training.folder / 'go').touch()
    assert first.wait() == second.wait() == {training: None}
    assert events(training) == ['start', 'interrupted', 'start --resume', 'end']
    assert job_of(training) == number
    assert read_result(training).numbers['accuracy'] == 60.0


def test_a_job_that_is_cancelled_is_interrupted_and_submitted_again(cluster, tmp_path):
    training = Training(make_run(tmp_path, 'slow'), 0)
    command = Command(tmp_path, training)
    until(lambda: events(training), WAIT)
    slurm('scancel', job_of(training))
    assert isinstance(command.wait()[training], TrainingStopped)
    (training.folder / 'go').touch()
    assert Command(tmp_path, training).wait() == {training: None}
    assert events(training) == ['start', 'interrupted', 'start --resume', 'end']


def test_a_job_that_failed_and_was_requeued_is_not_over(cluster, tmp_path):
    training = Training(make_run(tmp_path, 'fails'), 0)
    error = Command(tmp_path, training).wait()[training]
    assert isinstance(error, TrainingFailed)
    assert str(error) == 'it ended with status 1: boom'
    number = job_of(training)
    slurm('scontrol', 'requeue', number)
    command = Command(tmp_path, training)
    time.sleep(1)
    assert command.ended == {}
    start_again(number)
    assert str(command.wait()[training]) == str(error)
    assert events(training) == ['start', 'start']
    assert job_of(training) == number


def test_without_a_controller(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv('SLURM_CONF', str(configure(tmp_path / 'none')))
    with pytest.raises(OSError, match=r'^--cluster slurm: .*(Unable to contact|Connection refused).*$'):
        train_on_cluster(JobTrainer([]), [], 'slurm', tmp_path, {}, print)


def test_a_training_of_two_processes_on_cpus(cluster, tmp_path):
    """By tools/slurm_train.sh: they meet by gloo, and an error of the second names it."""
    small_config(tmp_path / 'run', train_cfg__max_epochs=1, default_hooks__prune__epoch=0).dump(tmp_path / 'c.py')
    text = (tmp_path / 'c.py').read_text().replace('custom_imports = ', '_unused = ')
    (tmp_path / 'c.py').write_text(f"{text}\ncustom_imports = dict(imports=['tests.small_run'])\n")
    options = dict(GPUS='2', ON_CPU='1', CPUS_PER_TASK='1', PYTHONPATH=str(ROOT))
    command = [ROOT / 'tools' / 'slurm_train.sh', 'low', 'name', tmp_path / 'c.py', tmp_path / 'run']
    job = launch(*command, **options)
    assert job.returncode == 0, job.stdout
    assert 'accuracy/top1' in job.stdout
    assert torch.load(tmp_path / 'run' / 'epoch_1.pth')['settings']['processes'] == 2
    refused = launch(*command, **options)  # in a folder with checkpoints
    assert 'error: work_dir' in refused.stdout
    assert 'error: process 1: work_dir' in refused.stdout
