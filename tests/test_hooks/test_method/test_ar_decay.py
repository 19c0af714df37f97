import signal

import pytest
import torch
from mmengine.optim import OptimWrapper

from pab.hooks import ARDecayHook
from pab.optim import Bop
from pab.run import PabRunner
from tests.small_run import run_in_child, small_config, train, train_and_kill


def rates_of_epochs(hook, epochs):
    """The adaptivity rate, as a multiple of the first, at which each epoch runs."""
    bop = Bop([torch.nn.Parameter(torch.ones(1))], adaptivity_rate=0.5)
    wrapper, rates = OptimWrapper(bop), []
    scheduler = hook.scheduler(wrapper, epochs)
    for _ in range(epochs):
        rates.append(bop.param_groups[0]['adaptivity_rate'] / 0.5)
        wrapper.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    'interval, timing, decays',
    [
        (3, 'after', [0, 0, 0, 1, 1, 1, 2]),  # the rate falls once epochs 3 and 6 are over
        (3, 'before', [0, 0, 1, 1, 1, 2, 2]),  # epochs 3 and 6 already run at the lower rate
        (1, 'after', [0, 1, 2]),
        (1, 'before', [1, 2, 3]),
        (9, 'before', [0, 0, 0]),
    ],
)
def test_both_timings_of_the_reference(interval, timing, decays):
    hook = ARDecayHook(interval=interval, gamma=0.5, timing=timing)
    assert rates_of_epochs(hook, len(decays)) == [0.5**n for n in decays]


def logged_rates(runner):
    runner.train()
    return runner.message_hub.get_scalar('adaptivity_rate').data[0].tolist()


def test_rate_of_each_epoch_in_a_run(tiny_config):
    runner = PabRunner.from_cfg(tiny_config(train_cfg=dict(max_epochs=3)))
    assert logged_rates(runner) == pytest.approx([1e-2, 1e-2 * 0.15, 1e-2 * 0.15**2])
    runner.test()  # which builds nothing anew
    assert len(runner.param_schedulers['signs']) == 1


def test_a_run_that_is_made_longer_goes_on_decaying(tiny_config):
    PabRunner.from_cfg(tiny_config(train_cfg=dict(max_epochs=1))).train()
    changes = dict(resume_check=dict(allow_changes=True))
    runner = PabRunner.from_cfg(tiny_config(resume=True, default_hooks=changes))
    assert logged_rates(runner) == pytest.approx([1e-2, 1.5e-3])


def test_a_run_without_schedules_of_its_own(tiny_config):
    runner = PabRunner.from_cfg(tiny_config(param_scheduler=None))
    assert logged_rates(runner) == pytest.approx([1e-2, 1.5e-3])


SCHEDULES = [
    dict(type='LinearParamScheduler', param_name='adaptivity_rate', start_factor=0.1, by_epoch=False, end=7),
    dict(type='CosineAnnealingParamScheduler', param_name='adaptivity_rate', begin=1, eta_min=0.01),
    dict(type='ExponentialParamScheduler', param_name='threshold', gamma=0.5, by_epoch=False),
]


@pytest.mark.slow
def test_any_scheduler_moves_rate_and_threshold_and_resumes(tmp_path):
    def config(name, **options):
        cfg = small_config(tmp_path / name, default_hooks__ar_decay=None, **options)
        cfg.param_scheduler.signs = SCHEDULES
        return cfg

    status, whole = run_in_child(train, config('whole'))
    assert status == 0
    group = whole['optimizers']['signs']['param_groups'][0]
    assert group['threshold'] == pytest.approx(1e-6 * 0.5**29)  # 30 steps, of which the last changes nothing
    # 10 steps to warm up to 0.2, then the half and the end of a cosine from 0.2 to 0.01
    assert whole['scalars']['adaptivity_rate'][0] == pytest.approx([0.2, 0.2, 0.105])
    cfg = config('run', default_hooks__checkpoint__by_epoch=False, default_hooks__checkpoint__interval=2)
    assert run_in_child(train_and_kill, cfg, 15, 'in')[0] == -signal.SIGKILL
    cfg.resume = True
    status, resumed = run_in_child(train, cfg)
    assert (status, resumed) == (0, whole)


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(interval=0), 'ARDecayHook: interval must be an int >= 1, got 0'),
        (dict(gamma=0.0), r'ARDecayHook: gamma must lie in \(0, 1\], got 0.0'),
        (dict(gamma=1.5), 'got 1.5'),
        (dict(timing='later'), "ARDecayHook: unknown timing 'later'; known: after, before"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ARDecayHook(**settings)


def test_a_rate_that_a_scheduler_moves_too_is_refused(tiny_config):
    cfg = tiny_config()
    cfg.param_scheduler.signs = SCHEDULES[:1]
    with pytest.raises(ValueError, match=r'param_scheduler.signs moves the adaptivity rate too; drop .*ar_decay=None'):
        PabRunner.from_cfg(cfg).train()


@pytest.mark.parametrize(
    'hook, message',
    [
        (dict(flips=None), r'ARDecayHook: no optimizer .* an adaptivity rate to decay; .*ar_decay=None'),
        (dict(ar_decay=None), r'FlipCountHook: no optimizer .* flips signs .*flips=None'),
    ],
)
def test_a_run_without_a_sign_optimizer_is_refused(tiny_config, hook, message):
    optimizers = dict(_delete_=True, sgd=dict(type='SGD', owns='rest', lr=0.1))
    cfg = tiny_config(
        optim_wrapper=dict(optimizers=optimizers), param_scheduler=None, default_hooks=dict(prune=None, **hook)
    )
    with pytest.raises(ValueError, match=message):
        PabRunner.from_cfg(cfg).train()
