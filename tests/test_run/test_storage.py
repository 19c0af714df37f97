import errno
import os
import resource
import shutil
import signal
import threading
from types import SimpleNamespace

import pytest
import torch
from mmengine.fileio import get_file_backend

from pab.files import reason_of
from pab.run.storage import AtomicBackend, check_writable, write_atomically
from tests.small_run import run_in_child, small_config, train

OLD, NEW = b'old content', b'new content'


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_appears_whole_and_alone(tmp_path):
    write_atomically(NEW, tmp_path / 'a' / 'epoch_1.pth')
    assert [(f.name, f.read_bytes()) for f in (tmp_path / 'a').iterdir()] == [('epoch_1.pth', NEW)]


def test_on_a_full_disk_the_old_file_stays_and_the_error_says_so(tmp_path, monkeypatch):
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(OLD)
    monkeypatch.setattr(os, 'fsync', full_disk)
    with pytest.raises(
        OSError, match=r"cannot write '.*epoch_1.pth': No space left on device \(11 bytes needed, .* free"
    ):
        write_atomically(NEW, path)
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [('epoch_1.pth', OLD)]


def test_a_limit_on_file_sizes_is_reported_alike(tmp_path):
    status, error = run_in_child(_write_beyond_limit, tmp_path / 'epoch_1.pth')
    assert status == 0
    assert 'File too large (100 kB needed' in str(error)
    assert not list(tmp_path.iterdir())


def _write_beyond_limit(path):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    write_atomically(bytes(100_000), path)


@pytest.mark.parametrize(
    ('size', 'text'),
    [(0, '0 bytes'), (999, '999 bytes'), (1000, '1 kB'), (65_536, '66 kB'), (999_600, '1.0 MB'), (2_345_678, '2.3 MB')],
)
def test_sizes_have_a_unit_that_fits_them(tmp_path, monkeypatch, size, text):
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: SimpleNamespace(free=size))
    error = OSError(errno.ENOSPC, 'full')
    assert reason_of(error, tmp_path, size) == f'full ({text} needed, {text} free)'


def test_what_a_killed_run_left_of_a_checkpoint_is_removed(tmp_path):
    for name in ('.epoch_1.pth.0a1b.partial', '.epoch_1.pth.partial', '.epoch_10.pth.0a1b.partial'):
        (tmp_path / name).write_bytes(b'half')
    AtomicBackend().put(NEW, tmp_path / 'epoch_1.pth')
    assert {f.name for f in tmp_path.iterdir()} == {'epoch_1.pth', '.epoch_10.pth.0a1b.partial'}


def test_two_that_write_the_same_file_do_not_disturb_each_other(tmp_path, monkeypatch):
    """Both temporary files are there at once: each waits for the other before it is forced to the disk."""
    both, fsync, errors = threading.Barrier(2, timeout=60), os.fsync, []

    def wait_and_sync(descriptor):
        both.wait()
        fsync(descriptor)

    def write(data):
        try:
            write_atomically(data, tmp_path / 'table.md')
        except OSError as error:
            errors.append(error)
            both.abort()

    monkeypatch.setattr(os, 'fsync', wait_and_sync)
    threads = [threading.Thread(target=write, args=(data,)) for data in (OLD, NEW)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    (file,) = tmp_path.iterdir()
    assert file.read_bytes() in (OLD, NEW)


def test_only_a_checkpoint_has_advice_for_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'fsync', full_disk)
    with pytest.raises(OSError, match=r"^cannot write '.*table.md': No space left on device \(.* free\)$"):
        write_atomically(NEW, tmp_path / 'table.md')
    with pytest.raises(OSError, match=r'epoch_1.pth.* free\); checkpoints written before are untouched.*--resume$'):
        AtomicBackend().put(NEW, tmp_path / 'epoch_1.pth')


def test_the_backend_removes_only_after_it_has_written(tmp_path, monkeypatch):
    backend, other = (get_file_backend(tmp_path, backend_args=dict(backend='atomic')) for _ in range(2))
    assert isinstance(backend, AtomicBackend)
    old, new, elsewhere = tmp_path / 'epoch_1.pth', tmp_path / 'epoch_2.pth', tmp_path / 'sub' / 'epoch_3.pth'
    old.write_bytes(OLD)
    backend.remove(old)
    other.put(NEW, elsewhere)
    assert old.exists()
    with monkeypatch.context() as patch, pytest.raises(OSError, match='No space left'):
        patch.setattr(os, 'fsync', full_disk)
        other.put(NEW, new)
    assert old.exists()
    other.put(NEW, new)
    assert not old.exists()
    assert new.read_bytes() == NEW


def test_a_file_that_is_written_again_is_no_longer_marked(tmp_path):
    backend = AtomicBackend()
    path = tmp_path / 'best.pth'
    backend.put(OLD, path)
    backend.remove(path)
    backend.put(NEW, path)
    backend.put(NEW, tmp_path / 'other.pth')
    assert path.read_bytes() == NEW


def test_removing_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no file'):
        AtomicBackend().remove(tmp_path / 'epoch_1.pth')


def test_a_folder_that_cannot_be_written_is_one_error_before_training(tmp_path):
    (tmp_path / 'file').write_text('not a folder')
    with pytest.raises(OSError, match=r"work_dir '.*file/run' cannot be written: Not a directory; choose another with"):
        check_writable(tmp_path / 'file' / 'run')
    status, error = run_in_child(train, small_config(tmp_path / 'file' / 'run'))
    assert status == 0
    assert 'cannot be written: Not a directory' in str(error)
    check_writable(tmp_path / 'new')
    assert not list((tmp_path / 'new').iterdir())


def test_a_disk_that_fills_up_in_mid_run_leaves_the_last_good_checkpoint(tmp_path):
    status, error = run_in_child(
        _fill_up_at_epoch_2, small_config(tmp_path / 'run', default_hooks__checkpoint__save_best=None)
    )
    assert status == 0
    assert 'epoch_2.pth' in str(error)
    assert 'No space left on device' in str(error)
    assert 'checkpoints written before are untouched' in str(error)
    assert [f.name for f in (tmp_path / 'run').glob('*.pth')] == ['epoch_1.pth']
    assert torch.load(tmp_path / 'run' / 'epoch_1.pth')['meta']['epoch'] == 1


def _fill_up_at_epoch_2(cfg):
    fsync, calls = os.fsync, []

    def fails_later(descriptor):
        calls.append(descriptor)
        if len(calls) > 4:  # the config and the first checkpoint, each a file and its folder
            full_disk()
        fsync(descriptor)

    os.fsync = fails_later
    return train(cfg)
