"""A disk that fills up, and a folder that goes away, while a run writes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from pab.run.storage import check_writable
from tests.small_run import run_in_child, small_config, train


@pytest.fixture
def small_disk(tmp_path):
    """A folder that has room for one megabyte."""
    disk = tmp_path / 'disk'
    disk.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f'only root may mount a small disk: {mounted.stderr.decode().strip()}')
    yield disk
    subprocess.run(['umount', '--lazy', str(disk)], check=True)


def fill(folder: Path) -> None:
    with (folder / 'filler').open('wb', buffering=0) as file:
        try:
            while file.write(bytes(512)):
                pass
        except OSError:
            pass


class AccidentHook(Hook):
    """Fill the disk of the work dir, or remove that folder: at the first step, or when the last checkpoint is due."""

    priority = 'LOWEST'

    def __init__(self, what: str, at_start: bool) -> None:
        self.what, self.at_start = what, at_start

    def _act(self, runner) -> None:
        if self.what == 'remove':
            shutil.rmtree(runner.work_dir)
            return
        fill(Path(runner.work_dir).parent)
        runner.message_hub.update_info('best_score', -1.0)  # so the last result is a new best
        for _ in range(3):
            runner.logger.info('-' * 5000)  # more than the last page of the log has room for

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if self.at_start and runner.iter == 0:
            self._act(runner)

    def before_val_epoch(self, runner) -> None:
        if not self.at_start and runner.epoch == runner.max_epochs:
            self._act(runner)


def _train(cfg, what, at_start):
    """Train with an accident; what it prints, and the error."""
    lines, error = Path(cfg.work_dir).parents[1] / 'lines', None
    with lines.open('wb') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            train(cfg, lambda runner: runner.register_hook(AccidentHook(what, at_start)))
        except OSError as raised:
            error = raised
    sys.stdout.flush()
    return lines.read_text(), error


def config(folder, **options):
    cfg = small_config(folder, report=True, default_hooks__logger__interval=1, **options)
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.default_hooks.checkpoint.save_best = None
    return cfg


def test_no_run_begins_on_a_full_disk(small_disk):
    fill(small_disk)
    with pytest.raises(OSError, match=r"work_dir '.*run' cannot be written: No space left .* \(66 kB needed, 0 bytes"):
        check_writable(small_disk / 'run')


def test_a_complete_training_ends_well_without_its_pictures(small_disk):
    status, (lines, error) = run_in_child(_train, config(small_disk / 'run'), 'fill', False)
    assert (status, error) == (0, None)
    assert torch.load(small_disk / 'run' / 'epoch_3.pth')['meta']['epoch'] == 3
    assert lines.count('cannot be written: No space left on device (0 bytes free); the run goes on') == 1
    assert "The report is not complete: cannot write '" in lines
    assert 'report.html' not in os.listdir(small_disk / 'run')
    assert 'Traceback' not in lines


def test_a_complete_training_ends_well_without_its_best_checkpoint(small_disk):
    cfg = config(small_disk / 'run')
    cfg.default_hooks.checkpoint.save_best = 'accuracy/top1'
    status, (lines, error) = run_in_child(_train, cfg, 'fill', False)
    assert (status, error) == (0, None)
    assert torch.load(small_disk / 'run' / 'epoch_3.pth')['meta']['epoch'] == 3
    assert [path.name for path in (small_disk / 'run').glob('best_*')] == ['best_accuracy_top1_epoch_1.pth']
    assert lines.count("best_accuracy_top1_epoch_3.pth': No space left on device") == 1
    assert 'The training is complete, and its last checkpoint is there' in lines
    assert 'Traceback' not in lines


def test_a_disk_that_is_full_when_a_checkpoint_is_due(small_disk):
    status, (lines, error) = run_in_child(_train, config(small_disk / 'run'), 'fill', True)
    assert status == 0
    assert "epoch_1.pth': No space left on device (" in str(error)
    assert 'kB needed, 0 bytes free); checkpoints written before are untouched' in str(error)
    assert lines.count('the log ') == lines.count('are not complete') == 1
    assert 'Traceback' not in lines


@pytest.mark.slow
@pytest.mark.parametrize('at_start', [True, False])
def test_a_work_dir_that_goes_away_is_made_again(tmp_path, at_start):
    folder = tmp_path / 'a' / 'run'
    status, (lines, error) = run_in_child(_train, config(folder), 'remove', at_start)
    assert (status, error) == (0, None)
    assert lines.count('are not complete: No such file or directory; the training goes on') == 1
    assert (folder / 'report.html').is_file()
    assert (folder / 'epoch_3.pth').is_file() == at_start
