"""One training: resumed, skipped, locked, stopped, refused."""

import fcntl
import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from pab.compare import training as module
from pab.compare.cluster import JobTrainer
from pab.compare.plan import Training
from pab.compare.results import RESULT, read_result
from pab.compare.training import LOCK, LOG, Trainer, TrainingFailed, TrainingStopped, last_line
from tests.test_compare.fakes import events, fake_command, make_run, until


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, 'PAUSE', 0.02)
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)


@pytest.fixture
def trainer(tmp_path):
    trainer = Trainer(fake_command(tmp_path), threads=3, tell=lambda text: trainer.told.append(text))
    trainer.told = []
    return trainer


@pytest.fixture
def training(tmp_path):
    return Training(make_run(tmp_path), 0)


def in_thread(act, *args):
    """Call a function in a thread; the thread, and a list that will hold what it raised."""
    raised = []

    def call():
        try:
            act(*args)
        except (Exception, SystemExit) as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    return thread, raised


def test_a_result_is_written_once_and_read_again(trainer, tmp_path):
    training = Training(make_run(tmp_path), 1)
    assert read_result(training) is None
    trainer(training)
    result = read_result(training)
    assert result.numbers['accuracy'] == 61.0
    assert result.numbers['flips'] is None
    assert list(result.curve) == [[1, 2], [50.0, 61.0]]
    assert result.size is None
    assert set(json.loads((training.folder / RESULT).read_text())) == {'settings', 'numbers', 'curve', 'size'}
    assert 'hello from a with 3 threads' in (training.folder / LOG).read_text()
    assert last_line(training.folder / LOG).startswith('the network has no compact file: ')
    assert last_line(training.folder / LOG).endswith('epoch_2.pth')
    trainer(training)
    assert events(training) == ['start', 'end']
    assert (training.folder / 'config.py').read_text() == 'x = 1\n'


def test_only_what_has_a_checkpoint_is_resumed(trainer, training):
    training.folder.mkdir(parents=True)
    (training.folder / 'epoch_1.pth').touch()
    trainer(training)
    assert events(training)[0] == 'start --resume'


def test_the_threads_of_the_user_stay(trainer, training, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '7')
    trainer(training)
    assert 'hello from a with 7 threads' in (training.folder / LOG).read_text()


def test_modules_beside_the_config(trainer, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', 'first')
    trainer(training := Training(make_run(tmp_path, imports=tmp_path), 0))
    assert f'threads first{os.pathsep}{tmp_path}\n' in (training.folder / LOG).read_text()


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('fails', 'it ended with status 1: boom'),
        ('silent', r'it has ended, but its result cannot be read: .*seed_0 holds no report\.json'),
    ],
)
def test_failures_say_why(trainer, tmp_path, name, message):
    with pytest.raises(TrainingFailed, match=message):
        trainer(Training(make_run(tmp_path, name), 0))


def test_a_report_without_numbers(trainer, training, tmp_path):
    fake = tmp_path / 'fake.py'
    fake.write_text(fake.read_text().replace("'accuracy': 60.0 + seed", "'accuracy': None"))
    with pytest.raises(TrainingFailed, match='has no accuracy; does the config validate'):
        trainer(training)


@pytest.mark.parametrize(
    ('config', 'changed'),
    [
        ('x = 2\n', 'x was 1 and is 2'),
        ("x = 1\nval_dataloader = dict(batch_size=3, dataset=dict(data_root='/a'))\n", 'measured.val_dataloader.batch'),
    ],
)
def test_a_result_of_other_settings_is_refused(trainer, training, config, changed):
    trainer(training)
    with pytest.raises(ValueError, match=rf'holds the result of other settings: {changed}.*remove the folder'):
        trainer(Training(replace(training.run, config=config), 0))


def test_a_result_of_data_in_another_place_is_not(trainer, tmp_path):
    settings = "x = 1\nval_dataloader = dict(num_workers={}, dataset=dict(data_root='{}'), shape=(1, (2, 3)))\n"
    run = make_run(tmp_path, config=settings.format(0, '/a'))
    trainer(Training(run, 0))
    assert read_result(Training(replace(run, config=settings.format(2, '/b')), 0)).numbers['accuracy'] == 60.0


@pytest.mark.parametrize('text', ['{', '[]', '{"size": 3}', '3'])
def test_a_damaged_result(trainer, training, text):
    trainer(training)
    (training.folder / RESULT).write_text(text)
    with pytest.raises(ValueError, match=r'is no result of a training .*; remove the file'):
        read_result(training)


def test_what_a_killed_process_left_behind_is_waited_for(trainer, tmp_path):
    """The lock goes on with the training itself, so it is not started a second time beside it."""
    training = Training(make_run(tmp_path, 'slow'), 0)
    killed = multiprocessing.get_context('fork').Process(target=trainer, args=(training,))
    killed.start()
    until(lambda: events(training) == ['start'])
    killed.kill()
    killed.join()
    thread, raised = in_thread(trainer, training)
    until(lambda: trainer.told)
    assert 'slow, seed 0: a process that was started before still trains it; waiting' in trainer.told
    assert events(training) == ['start']
    (training.folder / 'go').touch()
    thread.join()
    assert not raised
    assert events(training) == ['start', 'end', 'start', 'end']
    assert read_result(training).numbers['accuracy'] == 60.0


def test_stop_ends_trainings_and_whoever_waits(trainer, tmp_path):
    slow, locked = (Training(make_run(tmp_path, name), 0) for name in ('slow', 'locked'))
    locked.folder.mkdir(parents=True)
    with (locked.folder / LOCK).open('a') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threads = [in_thread(trainer, training) for training in (slow, locked)]
        until(lambda: events(slow) and trainer.told)
        trainer.stop()
        for thread, raised in threads:
            thread.join()
            assert [type(error) for error in raised] == [TrainingStopped]
    assert events(slow) == ['start', 'interrupted']
    with pytest.raises(TrainingStopped):
        trainer(Training(make_run(tmp_path, 'later'), 0))


def test_a_second_stop_kills(trainer, tmp_path):
    fake = tmp_path / 'fake.py'
    fake.write_text(fake.read_text().replace('signal.SIGTERM, save', 'signal.SIGTERM, signal.SIG_IGN'))
    training = Training(make_run(tmp_path, 'slow'), 0)
    thread, raised = in_thread(trainer, training)
    until(lambda: events(training))
    trainer.stop()
    thread.join(0.2)
    assert thread.is_alive()
    trainer.stop()
    thread.join()
    assert [type(error) for error in raised] == [TrainingStopped]


def test_preemption(tmp_path):
    """SIGUSR2, which a cluster sends to all of a job, does not end the training; its checkpoint is waited for."""
    pytest.importorskip('submitit')
    training, trainer = Training(make_run(tmp_path, 'slow'), 0), JobTrainer(fake_command(tmp_path), threads=3)
    thread, raised = in_thread(trainer, training)
    until(lambda: events(training))
    (process,) = trainer._processes
    os.kill(process.pid, signal.SIGUSR2)
    time.sleep(0.1)
    assert process.poll() is None
    later = trainer.checkpoint(training)
    assert (training.folder / 'interrupted.pth').exists()
    thread.join()
    assert [error.code for error in raised] == [128 + signal.SIGTERM]
    (training.folder / 'go').touch()
    assert later.function.threads == 3
    later.result()
    assert events(training) == ['start', 'interrupted', 'start --resume', 'end']


def test_the_last_line_of_a_log(tmp_path):
    file = tmp_path / 'log'
    for text, line in (
        (b'', ''),
        (b'a\nb\n\n', 'b'),
        (b'10 %\r20 %\r', '20 %'),
        (b'x' * 9000 + b'\n\xff \n', '\ufffd'),
    ):
        file.write_bytes(text)
        assert last_line(file) == line
