"""Trainings as jobs of submitit, on this machine."""

import os
import signal
import sys
import threading

import pytest

from pab.compare.cluster import JobTrainer, train_on_cluster
from pab.compare.plan import Training
from pab.compare.results import read_result
from pab.compare.training import TrainingFailed
from tests.test_compare.fakes import child_of, events, fake_command, make_run, until


def train_by_submitit(tmp_path, name):
    """A training as a job of submitit's executor for this machine; the error that it ended by."""
    pytest.importorskip('submitit')
    training, ended = Training(make_run(tmp_path, name), 0), {}
    trainer = JobTrainer(fake_command(tmp_path))
    train_on_cluster(trainer, [training], 'local', tmp_path / 'jobs', {}, ended.__setitem__, pause=0.1)
    return ended[training]


@pytest.mark.slow
def test_a_job_that_fails(tmp_path):
    error = train_by_submitit(tmp_path, 'fails')
    assert isinstance(error, TrainingFailed)
    assert str(error) == 'it ended with status 1: boom'


@pytest.mark.slow
def test_a_job_that_is_preempted_is_requeued_and_goes_on(tmp_path):
    training = Training(make_run(tmp_path, 'slow'), 0)

    def preempt():
        try:
            until(lambda: events(training))
            controller = (training.folder / 'job').read_text().split()[1]
            os.kill(child_of(controller), signal.SIGUSR2)
            until(lambda: len(events(training)) == 3)
        finally:
            (training.folder / 'go').touch()

    thread = threading.Thread(target=preempt)
    thread.start()
    error = train_by_submitit(tmp_path, 'slow')
    thread.join()
    assert error is None
    assert events(training) == ['start', 'interrupted', 'start --resume', 'end']
    assert read_result(training).numbers['accuracy'] == 60.0


@pytest.mark.parametrize(
    ('cluster', 'options', 'message'),
    [
        ('local', {'timeout': 3}, "--cluster local: .*Parameter 'timeout'"),
        ('local', {'timeout_min': 'x'}, '--cluster local: Parameter "timeout_min" expected type'),
        ('slurm', {}, '--cluster slurm: Could not detect "srun"'),
    ],
)
def test_refusals_of_a_cluster(tmp_path, monkeypatch, cluster, options, message):
    pytest.importorskip('submitit')
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(ValueError, match=message):
        train_on_cluster(JobTrainer([]), [], cluster, tmp_path, options, print)


def test_without_submitit(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'submitit', None)
    with pytest.raises(ImportError, match='--cluster needs submitit: pip install submitit'):
        train_on_cluster(JobTrainer([]), [], 'local', tmp_path, {}, print)
