"""Errors that the machine makes: one line with the cause and the way out."""

import errno
import os
import re
import shutil
import signal

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from pab.datasets import ImageFolder
from pab.run.launch import errors_in_one_line, way_out
from tests.small_run import run_in_child


def _lines(act, *args):
    """What the process says when ``act`` ends it."""
    try:
        with errors_in_one_line('process 1: '):
            act(*args)
    except SystemExit as error:
        return error.code
    return 'nothing was raised'


def _end_worker(number):
    def collate(_items):
        os.kill(os.getpid(), number)

    list(DataLoader(range(8), num_workers=1, collate_fn=collate, multiprocessing_context='fork'))


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGBUS])
def test_a_worker_that_the_system_ends(number):
    status, line = run_in_child(_lines, _end_worker, number)
    assert status == 0
    assert re.match(r'error: process 1: process \d+, a worker of a data loader, was ended by the system \(', line)
    assert line.endswith('lower num_workers or batch_size of the loader, and go on with --resume')
    assert '\n' not in line


def _remove_data(folder, workers):
    for name in ('a', 'b'):
        (folder / 'train' / name).mkdir(parents=True)
        Image.new('RGB', (40, 40)).save(folder / 'train' / name / '0.png')
    data = ImageFolder('train', folder, size=32)
    shutil.rmtree(folder / 'train')
    list(DataLoader(data, num_workers=workers, multiprocessing_context='fork' if workers else None))


@pytest.mark.parametrize('workers', [0, 1])
def test_data_that_go_away(tmp_path, workers):
    status, line = run_in_child(_lines, _remove_data, tmp_path, workers)
    assert status == 0
    assert f'ImageFolder: the folder {tmp_path}/train is no longer there; bring it back, and go on with' in line
    assert 'PAB_TRACEBACK' not in line
    assert '\n' not in line


def test_memory_that_is_short():
    line = _lines(torch.empty, 1 << 60)
    assert line.startswith('error: process 1: memory is short: ')
    assert 'lower train_dataloader.batch_size (optim_wrapper.accumulative_counts keeps' in line
    assert '\n' not in line


def _read_without_memory(error):
    def collate(_items):
        raise error

    list(DataLoader(range(8), num_workers=1, collate_fn=collate, multiprocessing_context='fork'))


@pytest.mark.parametrize(
    'error',
    [MemoryError(), RuntimeError('unable to write to file </torch_7_1_0>: No space left on device (28)')],
    ids=['memory', 'shared_memory'],
)
def test_memory_that_is_short_in_a_worker(error):
    status, line = run_in_child(_lines, _read_without_memory, error)
    assert status == 0
    assert line.startswith(f'error: process 1: memory is short in a worker of a data loader: {type(error).__name__}')
    assert line.endswith(
        'lower num_workers or batch_size of the loader (in a container, raise --shm-size), and go on with --resume'
    )
    assert '\n' not in line


def test_an_error_of_a_data_set_of_ones_own_in_a_worker():
    status, line = run_in_child(_lines, _read_without_memory, RuntimeError('no such song'))
    assert (status, line) == (0, 'error: process 1: RuntimeError: no such song (PAB_TRACEBACK=1 shows where)')


def test_a_full_disk_of_which_the_system_names_no_file(tmp_path):
    told = way_out(OSError(errno.ENOSPC, 'No space left on device'), tmp_path)
    assert told.startswith(f'a file in {tmp_path} cannot be written: No space left on device (')
    assert told.endswith(' MB free)')
    assert way_out(OSError(errno.EIO, 'Input/output error'), tmp_path) is None


@pytest.mark.parametrize('layer', [nn.Conv2d(1, 1, 5), nn.MaxPool2d(4), nn.AvgPool2d(4), nn.Conv2d(3, 1, 1)])
def test_images_that_do_not_fit(layer):
    line = _lines(layer, torch.ones(1, 1, 3, 3))
    assert line.startswith('error: process 1: images do not fit the network: ')
    assert re.search(r'3(x| x |, )3.*; change their size or channels, or the network$', line)
    assert '\n' not in line


def test_a_runtime_error_that_nobody_knows_keeps_its_traceback():
    with pytest.raises(RuntimeError, match='mat1 and mat2'), errors_in_one_line():
        torch.ones(2, 3) @ torch.ones(2, 3)
