"""Every param scheduler moves every number of every sign optimizer, as it would move a learning rate."""

import copy
import itertools
import signal

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from pab.registry import PARAM_SCHEDULERS
from tests.registered import SIGN_OPTIMIZERS
from tests.small_run import run_in_child, small_config, train, train_and_kill

EPOCHS, STEPS = 5, 4
SCHEDULERS = {
    'ConstantParamScheduler': dict(factor=0.5, end=2),
    'CosineAnnealingParamScheduler': dict(T_max=EPOCHS),  # to 0
    'CosineRestartParamScheduler': dict(periods=[2, 3], restart_weights=[1, 0.5], eta_min=0),
    'ExponentialParamScheduler': dict(gamma=0.7),
    'GeometricParamScheduler': dict(end_factor=0.01, end=EPOCHS),
    'LinearParamScheduler': dict(start_factor=0.1, end_factor=1.0, end=3),  # a warm-up
    'MultiStepParamScheduler': dict(milestones=[1, 3], gamma=0.1),
    'PolyParamScheduler': dict(power=0.9, end=EPOCHS),  # to 0
    'ReduceOnPlateauParamScheduler': dict(monitor='loss', factor=0.5, patience=0, eps=0),
    'StepParamScheduler': dict(step_size=2, gamma=0.5),
}
NOT_FOR_SIGNS = {'OneCycleParamScheduler'}  # mmengine's refuses whatever is not called 'lr'
CASES = [
    dict(type=name, **settings, convert_to_iter_based=by_step)
    for name, settings in SCHEDULERS.items()
    for by_step in (False, True)
    if not (by_step and 'Plateau' in name)  # it reads what validation says, after an epoch
]
CASES.append(dict(type='LinearParamScheduler', start_factor=1.0, end_factor=0.0, end=4, convert_to_iter_based=True))
KEYS = [
    (name, key)
    for name, cls in SIGN_OPTIMIZERS.items()
    for key, value in cls([nn.Parameter(torch.ones(1))]).defaults.items()
    if isinstance(value, float) and key != 'move_share'  # which needs masks
]


def test_every_scheduler_is_here():
    every = {**PARAM_SCHEDULERS.parent.module_dict, **PARAM_SCHEDULERS.module_dict}
    known = {name for name in every if name.endswith('ParamScheduler')}
    assert known == {*SCHEDULERS, *NOT_FOR_SIGNS}
    assert {('Bop', 'threshold'), ('TopFlips', 'flip_share'), ('SecondOrderBop', 'second_rate')} <= {*KEYS}


class Training:
    """A weight, the optimizer and the scheduler, built as the runner builds them."""

    def __init__(self, build, scheduler, key):
        self.weight, self.key = nn.Parameter(torch.linspace(-1, 1, 40)), key
        self.wrapper = OptimWrapper(build(self.weight))
        self.scheduler = PARAM_SCHEDULERS.build(
            dict(scheduler, param_name=key), default_args=dict(optimizer=self.wrapper, epoch_length=STEPS)
        )
        self.values = []

    def run(self, first, last):
        for step in range(first, last):
            self.values.append(self.wrapper.optimizer.param_groups[0][self.key])
            self.weight.grad = torch.randn(40, generator=torch.Generator().manual_seed(step))
            self.wrapper.step()
            if not self.scheduler.by_epoch or step % STEPS == STEPS - 1:
                self.scheduler.step(*([dict(loss=1.0)] if hasattr(self.scheduler, 'need_val_args') else []))
        return self

    def states(self):
        return copy.deepcopy([self.wrapper.state_dict(), self.scheduler.state_dict()])

    def restore(self, states, weight):
        self.weight.data.copy_(weight)
        self.wrapper.load_state_dict(states[0])
        self.scheduler.load_state_dict(states[1])
        return self


def every_case():
    """Every case for every number; by default one number of each optimizer takes them all, and the others take two."""
    first = {optimizer: key for optimizer, key in reversed(KEYS) if key != 'lr'}
    for (optimizer, key), (index, case) in itertools.product(KEYS, enumerate(CASES)):
        default = key == first[optimizer] or index in (0, len(CASES) - 1)
        name = f'{case["type"]}{" by step" * case["convert_to_iter_based"]}-{optimizer}-{key}'
        yield pytest.param(optimizer, key, case, id=name, marks=[] if default else pytest.mark.slow)


@pytest.mark.parametrize(('optimizer', 'key', 'case'), every_case())
def test_it_moves_as_a_learning_rate_does_and_goes_on_in_mid_epoch(optimizer, key, case):
    def build(weight):
        return SIGN_OPTIMIZERS[optimizer]([weight], flips_per_weight=True)

    whole, total = Training(build, case, key), EPOCHS * STEPS
    first = build(nn.Parameter(torch.ones(1))).defaults[key]
    lr = Training(lambda weight: torch.optim.SGD([weight], lr=first), case, 'lr').run(0, total)
    assert whole.run(0, total).values == lr.values
    assert len(set(whole.values)) > 1
    assert torch.equal(whole.weight.abs(), torch.linspace(-1, 1, 40).abs())  # also at a rate or a share of exactly 0
    assert whole.states()[0]['state'][0]['moving_average'].isfinite().all()

    stopped = Training(build, case, key).run(0, 2 * STEPS + 1)
    resumed = Training(build, case, key).restore(stopped.states(), stopped.weight.detach())
    resumed.run(2 * STEPS + 1, total)
    assert stopped.values + resumed.values == whole.values
    assert torch.equal(resumed.weight, whole.weight)
    assert repr(resumed.states()) == repr(whole.states())


def test_a_rate_of_zero_leaves_the_averages_as_they_are():
    for cls in SIGN_OPTIMIZERS.values():
        weight = nn.Parameter(torch.linspace(-1, 1, 40))
        optimizer = cls([weight], **({'flip_share': 0.0} if 'flip_share' in cls([weight]).defaults else {}))
        weight.grad = torch.randn(40)
        optimizer.step()
        group, average = optimizer.param_groups[0], optimizer.state[weight]['moving_average'].clone()
        group.update({key: 0.0 for key in group if key.endswith('_rate')})
        weight.grad = torch.randn(40)
        optimizer.step()
        assert torch.equal(optimizer.state[weight]['moving_average'], average)
        before = weight.detach().clone()
        optimizer.step()
        assert torch.equal(weight, before)  # what speaks for a flip has flipped


def test_several_schedules_in_a_run_that_is_killed(tmp_path):
    schedules = [
        dict(type='LinearParamScheduler', param_name='adaptivity_rate', start_factor=0.1, end=1),
        dict(type='CosineAnnealingParamScheduler', param_name='adaptivity_rate', begin=1, T_max=2),
        dict(type='PolyParamScheduler', param_name='threshold', end=3, power=2.0),
        dict(type='StepParamScheduler', param_name='second_rate', step_size=1, gamma=0.5),
    ]

    def config(name, **options):
        cfg = small_config(tmp_path / name, default_hooks__ar_decay=None, **options)
        cfg.optim_wrapper.optimizers.signs = dict(
            type='SecondOrderBop', owns=['Conv2d.weight'], adaptivity_rate=0.2, second_rate=0.1, bias_corrected=True
        )
        cfg.param_scheduler.signs = [dict(schedule, convert_to_iter_based=True) for schedule in schedules]
        return cfg

    status, whole = run_in_child(train, config('whole'))
    assert status == 0, whole
    group = whole['optimizers']['signs']['param_groups'][0]
    assert group['adaptivity_rate'] == pytest.approx(0.2 * 0.00616, rel=1e-2)  # a step before the end of the cosine
    assert group['threshold'] == 0.0
    assert group['second_rate'] == pytest.approx(0.1 * 0.5**2)
    assert sum(whole['scalars']['flips/epoch'][0]) > 0
    cfg = config('run', default_hooks__checkpoint__by_epoch=False, default_hooks__checkpoint__interval=2)
    assert run_in_child(train_and_kill, cfg, 15, 'in')[0] == -signal.SIGKILL
    cfg.resume = True
    assert run_in_child(train, cfg) == (0, whole)
