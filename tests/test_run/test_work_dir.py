"""Which checkpoint a run goes on from, and when it may begin in a folder that holds some."""

import errno
import fcntl
import logging
import os
import shutil
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from torch import nn

from pab.registry import RUNNERS
from pab.run.checkpoint import UnusableCheckpoint
from pab.run.work_dir import choose_start, find_newest, locked, run_files
from tests.small_run import run_in_child, run_ranks, small_config, start_child, train, train_and_kill


def a_run_at(step, epoch=0, written=0, **more):
    meta = dict(iter=step, epoch=epoch, written=written)
    return dict(dict(meta=meta, state_dict={}, message_hub={}, optimizer={}), **more)


def best(step, epoch, written=0):
    content = a_run_at(step, epoch, written)
    del content['optimizer']
    return content


def save(content, path):
    torch.save(content, path)
    return path


def flip_bits(path):
    path.write_bytes(path.read_bytes().replace(b'\x00\x00\x80\x3f' * 8, b'\x00\x00\x00\x40' * 8))


# ---- the newest


def test_the_newest_was_written_last_whatever_its_name_date_and_step(tmp_path):
    """An old run of 20 epochs, and what a new one wrote after it."""
    said = []
    save(a_run_at(460, 20, written=50), tmp_path / 'epoch_20.pth')
    save(best(460, 19, written=49), tmp_path / 'best_accuracy_epoch_19.pth')
    save(a_run_at(46, 2, written=60), tmp_path / 'epoch_2.pth')
    newest = save(a_run_at(69, 3, written=70), tmp_path / 'interrupted.pth')
    os.utime(newest, (0, 0))
    (tmp_path / 'last_checkpoint').write_text('/somewhere/else/epoch_2.pth')
    assert find_newest([tmp_path, tmp_path / 'none'], said.append).path == newest
    assert said == []


def test_files_without_a_time_are_ordered_by_their_steps(tmp_path):
    save(a_run_at(24, 2), tmp_path / 'interrupted.pth')
    newest = save(a_run_at(30, 3), tmp_path / 'epoch_3.pth')
    assert find_newest([tmp_path], lambda _: None).path == newest


def test_what_is_passed_over_is_named(tmp_path):
    said = []
    good = save(a_run_at(10, 1), tmp_path / 'epoch_1.pth')
    truncated = save(a_run_at(20, 2, more=torch.ones(999)), tmp_path / 'epoch_2.pth')
    truncated.write_bytes(truncated.read_bytes()[:-50])
    (tmp_path / 'epoch_3.pth').touch()
    flip_bits(save(a_run_at(40, 4, more=torch.ones(64)), tmp_path / 'epoch_4.pth'))
    save(a_run_at(41, 4, state_dict={'conv.weight': torch.tensor([1.0, float('nan')])}), tmp_path / 'interrupted.pth')
    average = {'signs': {'state': {0: {'moving_average': torch.tensor(float('inf'))}}}}
    save(a_run_at(42, 4, optimizer=average), tmp_path / 'iter_42.pth')
    save(a_run_at(50, 5), tmp_path / 'diverged_iter_50.pth')
    save({'conv1.weight': torch.ones(3)}, tmp_path / 'resnet.pth')
    save([1, 2], tmp_path / 'list.pth')
    (tmp_path / 'teacher.pth').write_text('of another program')
    assert find_newest([tmp_path], said.append).path == good
    words = {
        'epoch_2.pth': 'truncated',
        'epoch_3.pth': 'empty',
        'epoch_4.pth': 'checksum',
        'interrupted.pth': 'cannot be resumed: state_dict.conv.weight is not finite',
        'iter_42.pth': 'cannot be resumed: optimizer.signs.state.0.moving_average is not finite',
        'diverged_iter_50.pth': 'no longer finite',
        'resnet.pth': 'no checkpoint to resume a run from, it has no meta',
        'list.pth': 'no checkpoint to resume a run from',
        'teacher.pth': 'was not written by torch',
    }
    assert len(said) == len(words)
    for name, reason in words.items():
        assert any(name in sentence and reason in sentence for sentence in said), (name, said)


def test_buffers_may_hold_infinities(tmp_path):
    model = nn.Module()
    model.register_buffer('causal_mask', torch.tensor(float('-inf')))
    path = save(a_run_at(3, state_dict=model.state_dict()), tmp_path / 'iter_3.pth')
    assert find_newest([tmp_path], lambda _: None, model).path == path
    with pytest.raises(UnusableCheckpoint, match=r'iter_3.pth is damaged or not finite'):
        find_newest([tmp_path], lambda _: None)


def test_nothing_but_damaged_files_is_an_error_and_nothing_at_all_is_not(tmp_path):
    assert find_newest([tmp_path], lambda _: None) is None
    (tmp_path / 'epoch_3.pth').touch()
    with pytest.raises(UnusableCheckpoint, match=r'no checkpoint in .* can be resumed, epoch_3.pth is damaged or not'):
        find_newest([tmp_path], lambda _: None)


# ---- the start


def start(folder, resume=False, load_from=None, overwrite=False):
    runner = SimpleNamespace(
        work_dir=str(folder),
        hooks=[],
        bare_model=nn.Linear(1, 1),
        logger=logging.getLogger('test'),
        cfg=dict(overwrite=overwrite),
        resumes=resume,
        start_file=load_from and str(load_from),
    )
    chosen, _, removed = choose_start(runner)
    return chosen and os.path.relpath(chosen, folder), sorted(path.name for path in removed)


@pytest.fixture
def folder(tmp_path):
    """The work dir of a run of three epochs, beside it a file of another run, in it one that is of no run."""
    save(a_run_at(99, 9, written=99), tmp_path / 'other.pth')
    (tmp_path / 'run').mkdir()
    for epoch in (1, 2, 3):
        save(a_run_at(10 * epoch, epoch, written=10 * epoch), tmp_path / 'run' / f'epoch_{epoch}.pth')
    save(best(20, 2, written=25), tmp_path / 'run' / 'best_epoch_2.pth')
    save({'conv1.weight': torch.ones(3)}, tmp_path / 'run' / 'resnet.pth')
    return tmp_path / 'run'


RUN = ['best_epoch_2.pth', 'epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']


def test_a_new_run_needs_a_folder_without_checkpoints(folder, tmp_path):
    assert start(tmp_path / 'new') == (None, [])
    with pytest.raises(
        FileExistsError, match=r'already holds epoch_3.pth, .* and 1 more, which a run that begins anew'
    ):
        start(folder)
    with pytest.raises(FileExistsError, match=r'by --resume, choose another --work-dir, or remove them by --overwrite'):
        start(folder, load_from=folder / 'resnet.pth')
    assert start(folder, overwrite=True) == (None, RUN)
    for name in RUN:
        (folder / name).unlink()
    assert start(folder) == (None, [])  # weights of elsewhere are in nobody's way
    (folder / 'epoch_1.pth').touch()
    with pytest.raises(FileExistsError, match=r'already holds epoch_1.pth'):
        start(folder)


def test_a_resume_that_finds_only_the_best_is_not_told_to_resume(folder):
    for epoch in (1, 2, 3):
        (folder / f'epoch_{epoch}.pth').unlink()
    with pytest.raises(FileExistsError, match=r'best_epoch_2.pth, .* none of them is one to resume from: choose'):
        start(folder, resume=True)


def test_a_resume_goes_on_from_the_newest_or_the_file_it_is_given(folder):
    assert start(folder, resume=True) == ('epoch_3.pth', [])
    assert start(folder, resume=True, overwrite=True) == ('epoch_3.pth', [])
    assert start(folder, resume=True, load_from=folder / 'epoch_3.pth') == ('epoch_3.pth', [])
    with pytest.raises(
        FileExistsError, match=r'holds epoch_3.pth, best_epoch_2.pth, which a run that begins at .*_2.pth'
    ):
        start(folder, resume=True, load_from=folder / 'epoch_2.pth')
    later = ['best_epoch_2.pth', 'epoch_3.pth']
    assert start(folder, resume=True, load_from=folder / 'epoch_2.pth', overwrite=True) == ('epoch_2.pth', later)
    (folder / 'epoch_4.pth').touch()  # damaged files are passed over, so they may stay
    assert start(folder, resume=True, load_from=folder / 'epoch_3.pth') == ('epoch_3.pth', [])


def test_a_resume_from_elsewhere_needs_a_folder_without_checkpoints(folder, tmp_path):
    other = tmp_path / 'other.pth'
    with pytest.raises(FileExistsError, match=r'a run that begins at .*other.pth would be mixed up with'):
        start(folder, resume=True, load_from=other)
    assert start(folder, resume=True, load_from=other, overwrite=True) == ('../other.pth', RUN)
    assert start(tmp_path / 'new', resume=True, load_from=other) == ('../other.pth', [])


def test_a_resume_without_a_file_to_go_on_from_does_not_begin_among_others(folder):
    for epoch in (1, 2, 3):
        (folder / f'epoch_{epoch}.pth').unlink()
    with pytest.raises(FileExistsError, match=r'holds best_epoch_2.pth, which a run that begins anew'):
        start(folder, resume=True)


@pytest.mark.parametrize('options', [{}, dict(overwrite=True), dict(resume=True), dict(load_from='pruned.pth')])
def test_a_job_that_is_started_again_goes_on_whatever_it_was_told(folder, tmp_path, monkeypatch, options):
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    assert start(folder, **options) == ('epoch_3.pth', [])
    assert start(tmp_path / 'nothing_yet', **options) == (None, [])
    assert start(tmp_path / 'nothing_yet', resume=True, load_from=tmp_path / 'other.pth') == ('../other.pth', [])


# ---- whole runs


def _train_without_data(cfg):
    """With a training set that cannot be built."""
    cfg.train_dataloader.dataset.num = 'nothing'
    return train(cfg)


def test_a_folder_with_a_run_is_refused_before_any_work_and_by_all_processes(finished):
    folder = finished.folder
    before = sorted(folder.glob('*.pth'))
    ends = [
        run_in_child(_train_without_data, small_config(folder)),
        *run_ranks(2, _train_without_data, small_config(folder)),
    ]
    for status, error in ends:
        assert status == 0
        assert isinstance(error, FileExistsError), error
        assert 'already holds epoch_3.pth' in str(error)
    assert sorted(folder.glob('*.pth')) == before


def test_a_run_that_overwrites_leaves_nothing_to_resume_but_its_own(finished, tmp_path):
    folder = tmp_path / 'run'
    shutil.copytree(finished.folder, folder)
    cfg = small_config(folder, overwrite=True, randomness__seed=1)
    assert run_in_child(_train_without_data, cfg)[0] == 0
    assert len(list(folder.glob('*.pth'))) == 3  # what fails before the first step removes nothing
    assert run_in_child(train_and_kill, cfg, 2, 'before')[0] == -signal.SIGKILL
    assert not list(folder.glob('*.pth'))
    assert run_in_child(train_and_kill, cfg, 12, 'after')[0] == -signal.SIGKILL
    cfg.resume = True  # as a cluster starts it again: with all that it was told
    status, end = run_in_child(train, cfg)
    assert (status, end['progress'], end['pruning']['seed']) == (0, (3, 30), 1)
    assert 'Load checkpoint from' in max(folder.glob('*/*.log')).read_text()


def test_a_run_goes_on_from_its_own_file_and_not_from_that_of_a_longer_one(finished, tmp_path):
    """As in a folder into which an older run was copied."""
    folder = tmp_path / 'run'
    assert run_in_child(train_and_kill, small_config(folder), 12, 'after')[0] == -signal.SIGKILL
    for name in ('epoch_2.pth', 'epoch_3.pth'):
        shutil.copy(finished.folder / name, folder / name)
    newest, *older = (file.path.name for file in run_files([folder]))
    assert (newest, sorted(older)) == ('epoch_1.pth', ['best_accuracy_top1_epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth'])
    cfg = small_config(folder, resume=True)
    assert run_in_child(train_and_kill, cfg, 29, 'after')[0] == -signal.SIGKILL
    assert run_files([folder])[0].path.name == 'epoch_2.pth'


def test_times_grow_although_a_clock_goes_back(finished, tmp_path):
    later = torch.load(finished.folder / 'epoch_3.pth')
    later['meta']['written'] += 10**18
    later['meta']['epoch'], later['meta']['iter'] = 2, 20
    (tmp_path / 'run').mkdir()
    torch.save(later, tmp_path / 'run' / 'epoch_2.pth')
    status, _ = run_in_child(train, small_config(tmp_path / 'run', resume=True))
    assert status == 0
    assert run_files([tmp_path / 'run'])[0].path.name == 'epoch_3.pth'


# ---- one run in a folder


def _hold(folder):
    os.setpgid(0, 0)
    with locked(folder, print):
        if os.fork():  # the other is as data workers, which outlive a killed run for a while
            (folder / 'held').touch()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """Another process that trains in ``run``."""
    process, _ = start_child(_hold, tmp_path / 'run')
    while not (tmp_path / 'run' / 'held').exists():
        assert process.is_alive()
        time.sleep(0.01)
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


def test_a_second_run_in_a_folder_is_refused_until_the_first_has_died(tmp_path, holder):
    start = small_config(tmp_path / 'run', train_cfg__max_epochs=1)
    error = run_in_child(train, start)[1]
    assert isinstance(error, BlockingIOError)
    assert f'is in use: process {holder.pid} on {socket.gethostname()} trains in it' in str(error)
    assert not list((tmp_path / 'run').glob('*.pth'))
    elsewhere = small_config(tmp_path / 'other' / 'run', default_hooks__checkpoint__out_dir=str(tmp_path))
    assert isinstance(run_in_child(train, elsewhere)[1], BlockingIOError)  # its checkpoints are in that folder
    holder.kill()
    holder.join()
    assert run_in_child(train, start)[0] == 0
    with locked(tmp_path / 'run', print):  # an end frees it too
        assert (tmp_path / 'run' / 'train.lock').read_text() == f'process {os.getpid()} on {socket.gethostname()}\n'


def _files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_a_refused_run_leaves_nothing_in_the_folder_of_another(tmp_path, holder, tool):
    """Neither a log nor its config, by the command; by a runner, which has a log, no config."""
    folder = tmp_path / 'run'
    small_config(folder, train_cfg__max_epochs=1).dump(tmp_path / 'small.py')
    (folder / 'small.py').write_text("theirs = 'of the run that trains'")
    before = _files(folder)
    _, status = tool('train.py', tmp_path / 'small.py', '--work-dir', folder)
    assert 'is in use: process' in status
    assert (folder / 'small.py').read_bytes() == before[Path('small.py')]
    assert _files(folder) == before
    assert {path.name for path in folder.iterdir()} == {'small.py', 'train.lock', 'held'}
    with pytest.raises(BlockingIOError):
        train(Config.fromfile(tmp_path / 'small.py'))
    assert _files(folder).items() >= before.items()


def test_a_run_refused_for_checkpoints_and_a_test_leave_the_config_of_the_run(finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / 'run')
    cfg = small_config(folder, train_cfg__max_epochs=2)
    cfg.dump(tmp_path / 'small.py')
    (folder / 'small.py').write_text("theirs = 'of the finished run'")
    cfg = Config.fromfile(tmp_path / 'small.py')
    with pytest.raises(FileExistsError, match='already holds'):
        train(cfg)
    cfg.load_from = str(folder / 'epoch_3.pth')
    RUNNERS.build(cfg).test()
    assert 'finished' in (folder / 'small.py').read_text()
    cfg.update(load_from=None, overwrite=True)
    train(cfg)
    assert Config.fromfile(folder / 'small.py').train_cfg.max_epochs == 2


def test_without_locks_a_folder_is_used_with_a_warning(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'lockf', no_locks)
    said = []
    with locked(tmp_path, said.append):
        pass
    assert said == [f'{tmp_path} cannot be locked (No locks available): let no other run train in it']
