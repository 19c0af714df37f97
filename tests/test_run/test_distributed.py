"""Two processes that train together, by gloo: what they agree on, and how they compare with one process."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from pab.registry import RUNNERS
from pab.run.distributed import check_agreement
from tests.launching import ROOT, launch
from tests.small_run import run_ranks, small_config
from tests.test_run import distributed_job
from tests.test_run.distributed_job import DIFFERENT, RUNS, VALIDATION, config, plain_config

ACCIDENT = """
import os, signal, sys
sys.path.insert(0, {root!r})
import tests.small_run
from mmengine.hooks import Hook
from pab.registry import HOOKS

@HOOKS.register_module()
class AccidentHook(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if (runner.rank, runner.iter, os.environ['TORCHELASTIC_RESTART_COUNT']) == (1, 7, '0'):
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('job')


@pytest.fixture(scope='module')
def ranks(folder):
    """What each process of the job ended in."""
    assert run_ranks(2, distributed_job.train_each, Config(), folder) == [(0, None)] * 2
    return [torch.load(folder / f'rank{rank}.pth') for rank in range(2)]


@pytest.mark.parametrize('run', RUNS)
def test_every_process_has_the_same_masks_weights_and_averages(ranks, run):
    first, second = ranks[0][run], ranks[1][run]
    assert first['hashes'] == second['hashes']
    assert first['hashes']['masks'] == first['recorded'] == second['recorded']
    assert sum(first['flips']) > 100, 'nothing would have been compared'


def test_validation_counts_every_image_once(ranks, folder):
    cfg = config(
        folder, 'again', test_dataloader__dataset__num=VALIDATION, load_from=str(folder / 'whole' / 'epoch_3.pth')
    )
    alone = RUNNERS.build(cfg).test()
    for rank in ranks:
        metrics = {name: values[-1] for name, values in rank['whole']['metrics'].items()}
        assert metrics == pytest.approx({name: alone[name] for name in metrics}, rel=1e-6)
    counted = metrics['accuracy/top1'] / 100 * VALIDATION
    assert counted == pytest.approx(round(counted))


def test_statistics_of_batch_norm_are_those_of_the_checkpoint(ranks, folder):
    saved = torch.load(folder / 'whole' / 'epoch_3.pth')['state_dict']
    for rank in ranks:
        for name, value in rank['whole']['statistics'].items():
            assert torch.equal(value, saved[f'network.{name}'])


def test_only_the_first_process_writes(ranks):
    assert ranks[1]['written'] == []
    assert any(path.endswith('.log') for path in ranks[0]['written'])


def test_an_error_while_the_first_process_scores_is_raised_in_all(tmp_path):
    images = dict(default_hooks__prune__pruner__type='SNIP', default_hooks__prune__data=dict(num_samples=10**6))
    (_, first), (_, second) = run_ranks(
        2, distributed_job.prune_with_too_many_images, config(tmp_path, 'bad', **images)
    )
    assert 'data.num_samples must not exceed the training set, 76' in first
    assert first == second


def test_two_processes_with_half_the_batch_equal_one_with_all_of_it(ranks, tmp_path):
    """Without PSG, and with batch norm in evaluation mode: every flip, and weights up to the rounding of 30 steps."""
    one, two = distributed_job.train(plain_config(tmp_path, 'alone', 8)), ranks[0]['split']
    assert one['flips'] == two['flips']
    assert one['hashes']['masks'] == two['hashes']['masks']
    for name, param in one['parameters'].items():
        torch.testing.assert_close(param, two['parameters'][name], atol=1e-6, rtol=0)


def test_psg_quantises_each_part_of_the_batch_by_itself(ranks, tmp_path):
    """The scales of images and gradients are the largest values a process sees, so some flips are others."""
    one, two = distributed_job.train(plain_config(tmp_path, 'alone', 8, psg=True)), ranks[0]['split_psg']
    assert one['flips'] != two['flips']
    assert sum(two['flips'][:10]) == pytest.approx(sum(one['flips'][:10]), rel=0.1)


def test_compressed_gradients_change_little(ranks):
    exact, compressed = ranks[0]['whole'], ranks[0]['compressed']
    assert exact['hashes']['bop'] != compressed['hashes']['bop']
    assert sum(compressed['flips']) == pytest.approx(sum(exact['flips']), rel=0.05)


def same_end(folder, other):
    one, two = (torch.load(f / 'epoch_3.pth') for f in (folder, other))
    for name, value in one['state_dict'].items():
        assert torch.equal(value, two['state_dict'][name]), name
    one, two = (sorted(file['optimizer'].items()) for file in (one, two))  # a dumped config is in another order
    assert repr(one) == repr(two)


@pytest.mark.slow
def test_a_job_that_loses_a_process_goes_on_by_itself(ranks, folder, tmp_path):
    """Killed in the second epoch, and in the end what it would have been; it may overwrite, but not itself."""
    shutil.copytree(folder / 'split', tmp_path / 'run', ignore=shutil.ignore_patterns('2*'))
    (tmp_path / 'accident.py').write_text(ACCIDENT.format(root=str(ROOT)))
    cfg = config(folder, 'whole', custom_hooks=[dict(type='AccidentHook')], overwrite=True)
    cfg.custom_imports = dict(imports=['accident'])
    cfg.work_dir, cfg.experiment_name = str(tmp_path / 'run'), None
    cfg.dump(tmp_path / 'restarted.py')
    job = launch(ROOT / 'tools' / 'dist_train.sh', tmp_path / 'restarted.py', 2, TORCHRUN_ARGS='--max-restarts 1')
    assert job.returncode == 0, job.stdout
    assert f'Load checkpoint from {tmp_path / "run" / "epoch_1.pth"}' in _logs(tmp_path / 'run')
    same_end(folder / 'whole', tmp_path / 'run')


def test_an_error_of_one_process_ends_all_and_a_resume_goes_on(ranks, folder, tmp_path):
    cfg = config(tmp_path, 'whole')
    errors = [error for _, error in run_ranks(2, distributed_job.act_in_part, cfg, True)]
    assert all(isinstance(error, RuntimeError) for error in errors)
    assert 'an accident of one process' in str(errors[1])
    cfg.resume = True
    assert run_ranks(2, distributed_job.act_in_part, cfg, False) == [(0, None)] * 2
    assert f'Load checkpoint from {tmp_path / "whole" / "epoch_2.pth"}' in _logs(tmp_path / 'whole')
    same_end(folder / 'whole', tmp_path / 'whole')


def _logs(work_dir: Path) -> str:
    return '\n'.join(path.read_text() for path in work_dir.glob('*/*.log'))


def test_processes_that_differ_are_refused_before_the_first_step(tmp_path):
    (_, first), (_, second) = run_ranks(2, distributed_job.differ_each, small_config(tmp_path / 'run'), list(DIFFERENT))
    for key, (_, message) in DIFFERENT.items():
        assert re.search(message, first[key]), (key, first[key])
        assert first[key] == second[key]
    assert not list(tmp_path.glob('*/*.pth'))


def test_where_data_lie_and_how_they_are_read_may_differ(tmp_path):
    cfg = small_config(tmp_path / 'run', train_cfg__max_epochs=1, default_hooks__prune__epoch=0)
    (_, one), (_, two) = run_ranks(2, distributed_job.differ_each, cfg, ['train_dataloader.num_workers'])
    assert one == two == {'train_dataloader.num_workers': 'nothing was refused'}


def test_only_what_differs_of_a_long_value_is_shown(monkeypatch):
    names = [f'class {number}' for number in range(1000)]
    every = [{'classes': repr(names)}] * 9 + [{'classes': repr([*names[:500], 'cat', *names[500:]])}]
    monkeypatch.setattr('pab.run.distributed.all_gather_object', lambda _: every)
    with pytest.raises(
        ValueError, match=r"classes is \.\.\..*'class 500', .* on process 0, 1, .* 7 and others, "
    ) as told:
        check_agreement({})
    assert "'cat', " in str(told.value)
    assert len(str(told.value)) < 400
