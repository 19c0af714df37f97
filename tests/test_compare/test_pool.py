"""Many trainings on this machine, and the command, which is killed and goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pab.compare.plan import Training
from pab.compare.pool import threads_of_each, train_here
from pab.compare.results import read_result
from pab.compare.training import Trainer, TrainingFailed, TrainingStopped
from tests.test_compare.fakes import child_of, events, fake_command, make_run, until

ROOT = Path(__file__).parents[2]


def test_threads():
    cores = len(os.sched_getaffinity(0))
    assert [threads_of_each(jobs) for jobs in (1, cores, 10 * cores)] == [cores, 1, 1]


def test_all_are_trained_and_failures_are_told(tmp_path):
    trainings = [Training(make_run(tmp_path, name), seed) for name in ('fails', 'a', 'silent') for seed in (0, 1)]
    ended = {}
    assert train_here(Trainer(fake_command(tmp_path)), trainings, 2, ended.__setitem__) is None
    failed = [isinstance(ended[training], TrainingFailed) for training in trainings]
    assert failed == [True, True, False, False, True, True]
    assert ended[trainings[2]] is ended[trainings[3]] is None
    assert [read_result(training).numbers['accuracy'] for training in trainings[2:4]] == [60.0, 61.0]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_what_runs_and_what_waits(tmp_path, number):
    slow, waiting = Training(make_run(tmp_path, 'slow'), 0), Training(make_run(tmp_path, 'a'), 0)
    before, ended = signal.getsignal(number), {}

    def send():
        until(lambda: events(slow))
        os.kill(os.getpid(), number)

    threading.Thread(target=send).start()
    assert train_here(Trainer(fake_command(tmp_path)), [slow, waiting], 1, ended.__setitem__) == number
    assert {type(error) for error in ended.values()} == {TrainingStopped}
    assert (events(slow), events(waiting)) == (['start', 'interrupted'], [])
    assert signal.getsignal(number) is before


def test_an_error_of_the_caller_stops_all(tmp_path):
    slow, quick = Training(make_run(tmp_path, 'slow'), 0), Training(make_run(tmp_path, 'a'), 0)

    def ended(training, error):
        until(lambda: events(slow))
        raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        train_here(Trainer(fake_command(tmp_path)), [slow, quick], 2, ended)
    assert events(slow) == ['start', 'interrupted']


COMPARISON = """
title = 'Digits.'
options = {
    'model.network.width': 2,
    'train_dataloader.batch_size': 32,
    'train_dataloader.dataset.num_samples': 64,
    'val_dataloader.dataset.num_samples': 32,
    'train_cfg.max_epochs': 30,
    'default_hooks.prune.pruner.rounds': 2,
}
runs = [dict(name='Bop', config='QUICKSTART')]
"""


@pytest.mark.slow
def test_a_killed_comparison_goes_on(tmp_path):
    """The command and its training are killed; the same command resumes in the middle, and has the whole curve."""
    file, out = tmp_path / 'digits.py', tmp_path / 'out'
    file.write_text(COMPARISON.replace('QUICKSTART', str(ROOT / 'configs' / 'pab' / 'quickstart.py')))
    # for two jobs, so that the training has one thread: on a busy machine two would wait for each other
    options = ['--seeds', '1', '--jobs', '2', '--work-dir', out]
    command = [sys.executable, ROOT / 'tools' / 'compare.py', file, *options]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    folder = out / 'Bop' / 'seed_0'
    until(lambda: (folder / 'epoch_2.pth').exists())
    training = child_of(first.pid)
    first.kill()
    first.wait()
    os.kill(training, signal.SIGKILL)
    done = json.loads((folder / 'report.json').read_text())['numbers']['epoch']
    assert 1 <= done < 30  # a report is written behind the checkpoint of its epoch

    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0, second.stdout + second.stderr
    assert 'Bop, seed 0: ' in second.stdout
    assert '1 of 1 done' in second.stdout
    result = json.loads((folder / 'result.json').read_text())
    assert result['curve'][0] == list(range(1, 31))
    assert result['size'] == (folder / 'network.pab').stat().st_size > 1000
    assert (folder / 'compare.log').read_text().count('Load checkpoint') == 1
    for name in ('table.md', 'table.csv', 'accuracy_over_bit_operations.png', 'accuracy_over_bytes.png', 'report.html'):
        assert (out / name).stat().st_size > 100
