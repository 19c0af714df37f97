"""A hook's method that is named almost like a point is an error, and when each of pab's own points comes."""

import inspect

import mmengine.hooks
import pytest
from mmengine.hooks import Hook

import pab.contrib.gradient_compression
import pab.hooks
import pab.run
from pab.run.hook_points import HOOK_POINTS, RunHook, check_hook
from pab.run.runner import PabRunner
from tests.small_run import run_in_child, small_config, train

OWN = {'before_checkpoint', 'before_fetch', 'check_resume', 'after_scalars', 'after_exit'}


@pytest.fixture
def runner():
    """As much of a runner as registers and calls hooks."""
    runner = PabRunner.__new__(PabRunner)
    runner._hooks = []
    return runner


@pytest.mark.parametrize(
    ('wrong', 'meant'),
    [
        ('before_trian_epoch', 'before_train_epoch'),
        ('after_scalers', 'after_scalars'),
        ('check_resumed', 'check_resume'),
        ('befor_train', 'before_train'),
        ('after_iter', 'after_val_iter'),
    ],
)
def test_a_misspelt_method_is_refused_when_its_hook_is_registered(runner, wrong, meant):
    hook = type('MineHook', (RunHook,), {wrong: lambda self, runner: None})()
    with pytest.raises(ValueError, match=f"MineHook: no hook is ever called at '{wrong}'; did you mean {meant}"):
        runner.register_hook(hook)


def test_points_of_ones_own(runner, monkeypatch):
    called = []
    hook = type('MineHook', (Hook,), {'after_supper': lambda self, runner: called.append(runner), '_before_it': 1})()
    monkeypatch.setattr('pab.run.hook_points.HOOK_POINTS', {*HOOK_POINTS, 'after_supper'})
    runner.register_hook(hook)
    runner.call_hook('after_supper')
    assert called == [runner]


def test_no_hook_of_mmengine_or_of_pab_is_refused():
    modules = mmengine.hooks, pab.hooks, pab.run, pab.contrib.gradient_compression
    classes = {c for module in modules for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, Hook)}
    assert len(classes) > 25
    for cls in classes:
        check_hook(cls.__new__(cls))
    assert HOOK_POINTS >= OWN


class NotingHook(RunHook):
    """Notes at which points it was called."""

    def __init__(self) -> None:
        self.seen = []

    def before_checkpoint(self, runner):
        self.seen.append('before_checkpoint')

    def check_resume(self, runner, checkpoint):
        self.seen.append(('check_resume', checkpoint['meta']['iter']))

    def after_scalars(self, runner, scalars):
        self.seen.append(('after_scalars', [step for step, _ in scalars]))

    def after_exit(self, runner):
        self.seen.append('after_exit')


def _noted(cfg):
    hook = NotingHook()
    train(cfg, lambda runner: runner.register_hook(hook))
    return hook.seen


def test_when_each_of_pabs_own_points_comes(stopped, tmp_path):
    """In two epochs of ten steps, of which the logger reads the losses at every fourth."""
    cfg = small_config(
        tmp_path, resume=True, load_from=str(stopped), val_evaluator=None, val_dataloader=None, val_cfg=None
    )
    cfg.default_hooks.checkpoint.save_best = None
    expected = [('check_resume', 10)]
    for first in (10, 20):
        steps = [[first + step for step in part] for part in (range(4), range(4, 8), range(8, 10))]
        expected += [*(('after_scalars', part) for part in steps), 'before_checkpoint']
    assert run_in_child(_noted, cfg) == (0, [*expected, 'after_exit'])
