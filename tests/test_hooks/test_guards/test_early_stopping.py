"""Early stopping that a resume does not forget."""

import time

import pytest
from mmengine.hooks import Hook

from pab.registry import RUNNERS
from tests.small_run import STEPS, KillHook, run_in_child, small_config, train

ACCURACIES = [50.0, 50.05, 40.0, 50.08, 60.0, 70.0]  # of epochs 1 to 6: the fourth is the third that adds less than 0.1
ALLOW = dict(default_hooks__resume_check__allow_changes=True)


class Results(Hook):
    """Replaces what validations find."""

    priority = 'VERY_HIGH'

    def after_val_epoch(self, runner, metrics):
        metrics['accuracy/top1'] = ACCURACIES[runner.epoch - 1]


def config(folder, patience=3, **options):
    cfg = small_config(folder, train_cfg__max_epochs=6, **options)
    cfg.default_hooks.stop = dict(type='EarlyStoppingHook', monitor='accuracy/top1', patience=patience)
    return cfg


def progress(cfg):
    return train(cfg, lambda runner: runner.register_hook(Results()))['progress']


def killed(cfg, step):
    def prepare(runner):
        runner.register_hook(Results())
        runner.register_hook(KillHook(step, 'after'))

    return train(cfg, prepare)


@pytest.fixture(scope='module')
def ended(tmp_path_factory):
    """The folder of a run whose last validation found a new best result, but too little of it."""
    folder = tmp_path_factory.mktemp('stopped')
    assert run_in_child(progress, config(folder)) == (0, (4, 4 * STEPS))
    return folder


def test_a_killed_run_counts_on(tmp_path):
    assert run_in_child(killed, config(tmp_path), 3 * STEPS + 2)[0] == -9
    assert run_in_child(progress, config(tmp_path, resume=True)) == (0, (4, 4 * STEPS))


@pytest.mark.slow
def test_a_stopped_run_ends_at_once_when_resumed_unless_told_otherwise(ended):
    why = 'stopped after epoch 4 by EarlyStoppingHook: accuracy/top1 50.08, best 50, 3 validations without'
    time.sleep(1.1)  # log folders are named by the second
    assert run_in_child(progress, config(ended, resume=True)) == (0, (4, 4 * STEPS))
    first, second = (path.read_text() for path in sorted(ended.glob('*/*.log')))
    assert f'This run is {why}' in first
    assert f'This run was {why}' in second
    assert 'Epoch(train)' not in second
    assert run_in_child(progress, config(ended, resume=True, patience=4, **ALLOW)) == (0, (6, 6 * STEPS))


def test_a_test_needs_no_training_data(tmp_path):
    cfg = config(tmp_path, train_dataloader__dataset__type='Nowhere')
    status, error = run_in_child(evaluate, cfg)
    assert status == 0, error
    assert 'accuracy/top1' in error


def evaluate(cfg):
    return RUNNERS.build(cfg).test()
