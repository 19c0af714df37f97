"""A run resumed with other schedules, batches or rates has, at every later step, the values of an uninterrupted one."""

import copy
import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from pab.optim import TopFlips
from pab.run.checkpoint import to_plain
from pab.run.schedulers import Schedulers
from tests.small_run import run_in_child, small_config, train

EPOCHS = 6
WARM_UP = dict(type='LinearParamScheduler', start_factor=0.1, end=1, convert_to_iter_based=True)
COSINE = dict(type='CosineAnnealingParamScheduler', begin=1, T_max=3, convert_to_iter_based=True)
EXPONENTIAL = dict(type='ExponentialParamScheduler', gamma=0.7)
PLATEAU = dict(type='ReduceOnPlateauParamScheduler', monitor='loss', factor=0.5, patience=0, eps=0)
CHANGES = {
    'another length of epochs': ([WARM_UP, COSINE], [WARM_UP, COSINE]),
    'a longer cosine': ([WARM_UP, COSINE], [WARM_UP, dict(COSINE, T_max=5)]),
    'a cosine by epochs that ends above 0': (
        [dict(type='CosineAnnealingParamScheduler', T_max=3)],
        [dict(type='CosineAnnealingParamScheduler', T_max=6, eta_min=1e-3)],
    ),
    'a milestone that has just passed': (
        [dict(type='MultiStepParamScheduler', milestones=[1], gamma=0.1)],
        [dict(type='MultiStepParamScheduler', milestones=[1, 2], gamma=0.1)],
    ),
    'epochs instead of steps': ([dict(EXPONENTIAL)], [dict(EXPONENTIAL, gamma=0.97, by_epoch=False)]),
    'another number and other types': ([EXPONENTIAL], [WARM_UP, dict(type='StepParamScheduler', step_size=2)]),
    'restarts': (
        [dict(type='CosineRestartParamScheduler', periods=[3, 3], restart_weights=[1, 1], eta_min=0)],
        [dict(type='CosineRestartParamScheduler', periods=[2, 4], restart_weights=[1, 0.5], eta_min=0)],
    ),
    'a power': (
        [dict(type='PolyParamScheduler', power=0.9, end=3)],
        [dict(type='PolyParamScheduler', power=2.0, end=6)],
    ),
    'none any more': ([EXPONENTIAL], []),
    'the last of two no more': ([WARM_UP, EXPONENTIAL], [WARM_UP]),
    'a warm-up where there was none': ([], [dict(type='LinearParamScheduler', start_factor=0.1, end=3)]),
    'one where there was none': ([], [EXPONENTIAL]),
}
ALLOW = dict(default_hooks__resume_check__allow_changes=True)
KEYS = {'lr': torch.optim.SGD, 'flip_share': TopFlips}


class Training:
    """An optimizer of two groups and its schedulers, stepped as a runner steps them."""

    def __init__(self, key, value, schedule, epoch_length):
        groups = [dict(params=[nn.Parameter(torch.ones(2))]), dict(params=[nn.Parameter(torch.ones(2))])]
        groups[1][key] = value / 2
        self.key, self.length, self.values = key, epoch_length, []
        self.wrapper = OptimWrapper(KEYS[key](groups, **{key: value}))
        default = dict(optimizer=self.wrapper, epoch_length=epoch_length)
        self.schedulers = [PARAM_SCHEDULERS.build(dict(s, param_name=key), default_args=default) for s in schedule]

    def run(self, first, last, losses=()):
        for step in range(first, last):
            self.values.append([group[self.key] for group in self.wrapper.param_groups])
            self.wrapper.step()
            epoch_over = step % self.length == self.length - 1
            for scheduler in self.schedulers:
                if not scheduler.by_epoch or epoch_over:
                    plateau = hasattr(scheduler, 'need_val_args')
                    scheduler.step(*([dict(loss=losses[step // self.length])] if plateau else []))
        return self

    def resume(self, other, epochs, iters):
        """Load what a runner loads, by position, and settle."""
        schedules = Schedulers([self.wrapper], self.schedulers)
        self.wrapper.load_state_dict(copy.deepcopy(other.wrapper.state_dict()))
        for scheduler, before in zip(self.schedulers, other.schedulers, strict=False):
            scheduler.load_state_dict(copy.deepcopy(before.state_dict()))
        return schedules.settle(epochs, iters, self.length, len(other.schedulers) > len(self.schedulers))


@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize(('value', 'stop'), [(0.5, 2.0), (0.2, 2.0), (0.5, 1.5), (0.5, 0.0), (0.5, 0.5)])
@pytest.mark.parametrize('name', CHANGES)
def test_every_later_step_is_that_of_an_uninterrupted_run(name, value, stop, key):
    before, now = CHANGES[name]
    here = 4 if stop % 1 or name != 'another length of epochs' else 6
    stopped = Training(key, 0.5, before, 4).run(0, int(stop * 4))
    whole = Training(key, value, now, here).run(0, EPOCHS * here)
    resumed = Training(key, value, now, here)
    resumed.resume(stopped, int(stop), int(stop * here))
    resumed.run(int(stop * here), EPOCHS * here)
    assert resumed.values == whole.values[int(stop * here) :]


def adam(schedule):
    wrapper = OptimWrapper(torch.optim.Adam([nn.Parameter(torch.ones(2))], lr=0.1, betas=(0.9, 0.99)))
    default = dict(optimizer=wrapper, epoch_length=1)
    return wrapper, [PARAM_SCHEDULERS.build(dict(each), default_args=default) for each in schedule]


LOW_BETA, SLOWER = dict(type='ConstantMomentum', factor=0.1, end=4), dict(type='ExponentialLR', gamma=0.5)
PEAK = dict(type='OneCycleLR', total_steps=9)


@pytest.mark.parametrize(
    ('before', 'now'),
    [
        ([dict(PEAK, eta_max=1.0)], [dict(PEAK, eta_max=0.5)]),
        ([LOW_BETA], []),
        ([], [LOW_BETA]),
        ([SLOWER, LOW_BETA], [LOW_BETA, SLOWER]),
        ([SLOWER], [LOW_BETA, SLOWER]),
        ([SLOWER, dict(PEAK, eta_max=1.0)], [LOW_BETA]),
    ],
)
def test_what_schedules_keep_beside_the_number_and_at_another_place(before, now):
    """Momentum in Adam's betas, the peak of OneCycleLR; a state is loaded into the scheduler of its position."""
    (stopped, _), (whole, wanted), (resumed, built) = (run := [adam(before), adam(now), adam(now)])
    for _, schedulers in run[:2]:
        for scheduler in schedulers * 2:
            scheduler.step()
    schedules = Schedulers([resumed], built)
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    for scheduler, state in zip(built, run[0][1], strict=False):
        scheduler.load_state_dict(copy.deepcopy(state.state_dict()))
    schedules.settle(2, 2, 1, len(before) > len(now))
    for scheduler in built + wanted:
        scheduler.step()
    kept = [{key: value for key, value in w.param_groups[0].items() if key != 'params'} for w in (whole, resumed)]
    assert kept[0] == kept[1]


def test_the_function_of_a_one_cycle_is_built_anew():
    """It is nothing that a checkpoint has to hold, so nothing is warned of, and nothing is replayed."""
    (whole, one), (resumed, other) = adam([dict(PEAK, eta_max=1.0)]), adam([dict(PEAK, eta_max=1.0)])
    one[0].step()
    schedules, dropped = Schedulers([resumed], other), []
    states = to_plain(dict(sgd=[one[0].state_dict()]), 'param_schedulers', dropped)
    assert dropped == []
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    other[0].load_state_dict(states['sgd'][0])
    assert schedules.settle(1, 1, 1) == []
    for scheduler in one + other:
        scheduler.step()
    assert whole.param_groups[0]['lr'] == resumed.param_groups[0]['lr'] != 1.0


def test_the_numbers_of_a_longer_epoch_by_hand():
    """A cosine over 4 epochs of 2 steps, resumed after 2 epochs with 4 steps an epoch, so in the middle of 16."""
    cosine = dict(type='CosineAnnealingParamScheduler', T_max=4, convert_to_iter_based=True)
    resumed = Training('lr', 1.0, [cosine], 4)
    told = resumed.resume(Training('lr', 1.0, [cosine], 2).run(0, 4), 2, 8)
    assert told == ['lr: 0.5, by the config as it is now']
    values = [first for first, *_ in resumed.run(8, 17).values]
    assert values[0] == pytest.approx(0.5)
    assert values[4] == pytest.approx((1 - 0.5**0.5) / 2)  # (1 + cos(3/4 pi)) / 2
    assert values[8] == pytest.approx(0.0, abs=1e-12)


def test_nothing_is_replayed_where_nothing_changed():
    stopped = Training('lr', 0.5, [WARM_UP, COSINE], 4).run(0, 9)
    stopped.wrapper.optimizer.param_groups[0]['lr'] *= 3  # by somebody's hook
    resumed = Training('lr', 0.5, [WARM_UP, COSINE], 4)
    assert resumed.resume(stopped, 2, 9) == []
    assert resumed.wrapper.param_groups[0]['lr'] == stopped.wrapper.param_groups[0]['lr']


def test_a_plateau_keeps_its_progress_and_takes_new_settings():
    losses = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    stopped = Training('lr', 1.0, [PLATEAU], 1).run(0, 3, losses)
    assert stopped.wrapper.param_groups[0]['lr'] == 0.25
    resumed = Training('lr', 1.0, [dict(PLATEAU, factor=0.1)], 1)
    assert resumed.resume(stopped, 3, 3) == []
    assert [first for first, *_ in resumed.run(3, 5, losses).values] == pytest.approx([0.25, 0.025])


def test_a_plateau_in_another_place_is_refused():
    stopped = Training('lr', 1.0, [EXPONENTIAL], 1).run(0, 2)
    with pytest.raises(ValueError, match=r'schedules of lr cannot change their types or number .* ReduceOnPlateau'):
        Training('lr', 1.0, [PLATEAU], 1).resume(stopped, 2, 2)


class Rates(Hook):
    """Note the settings that every step runs with."""

    def __init__(self):
        self.of_steps = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        (bop,), (sgd,) = (runner.optim_wrapper[name].optimizer.param_groups for name in ('signs', 'sgd'))
        self.of_steps.append((sgd['lr'], bop['adaptivity_rate'], bop['threshold']))


def rates(cfg):
    hook = Rates()
    train(cfg, lambda runner: runner.register_hook(hook))
    return hook.of_steps


def by_steps(kind, **settings):
    return dict(type=kind, convert_to_iter_based=True, **settings)


def test_a_run_resumed_with_other_batches_and_schedules(stopped, tmp_path):
    """After the first of 3 epochs, which now have 5 steps: a cosine and a threshold by steps, a rate by epochs."""
    options = dict(train_dataloader__batch_size=16, default_hooks__ar_decay=dict(interval=2, gamma=0.3), **ALLOW)
    cfg = small_config(tmp_path, resume=True, load_from=str(stopped), **options)
    cfg.optim_wrapper.optimizers.signs.threshold = 0.01
    shrink = by_steps('GeometricParamScheduler', param_name='threshold', end_factor=0.1)
    cfg.param_scheduler = dict(sgd=[by_steps('CosineAnnealingLR', T_max=3)], signs=[shrink])
    status, found = run_in_child(rates, cfg)
    assert status == 0, found
    want = [
        ((1 + math.cos(math.pi * t / 15)) / 20, 0.2 if t < 10 else 0.06, 0.01 * 0.1 ** (t / 14)) for t in range(5, 15)
    ]
    assert found == [pytest.approx(each) for each in want]


def test_a_finished_run_that_goes_on_has_a_milestone_in_time(finished, tmp_path):
    start = str(finished.folder / 'epoch_3.pth')
    cfg = small_config(tmp_path, resume=True, load_from=start, train_cfg__max_epochs=5, **ALLOW)
    cfg.param_scheduler.sgd = [dict(type='MultiStepLR', milestones=[2, 3], gamma=0.1)]
    status, found = run_in_child(rates, cfg)
    assert status == 0, found
    assert [lr for lr, _, _ in found] == [pytest.approx(0.1**3)] * 20
