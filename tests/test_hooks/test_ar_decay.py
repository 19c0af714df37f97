import pytest

from pab.hooks import ARDecayHook
from pab.run import PabRunner


@pytest.mark.parametrize(
    'timing, want',
    [
        ('after', [0, 0, 0, 1, 1, 1, 2]),  # the rate falls once epochs 3 and 6 are over
        ('before', [0, 0, 1, 1, 1, 2, 2]),  # epochs 3 and 6 already run at the lower rate
    ],
)
def test_both_timings_of_the_reference(timing, want):
    hook = ARDecayHook(interval=3, gamma=0.5, timing=timing)
    assert [hook.decays(epoch) for epoch in range(7)] == want


def test_rate_of_each_epoch_in_a_run(tiny_config):
    runner = PabRunner.from_cfg(
        tiny_config(train_cfg=dict(max_epochs=3), default_hooks=dict(ar_decay=dict(interval=1)))
    )
    runner.train()
    rates = runner.message_hub.get_scalar('adaptivity_rate').data[0]
    assert rates.tolist() == pytest.approx([1e-2, 1e-2 * 0.15, 1e-2 * 0.15**2])


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(interval=0), 'ARDecayHook: interval must be an integer of epochs >= 1, got 0'),
        (dict(gamma=0.0), r'ARDecayHook: gamma must lie in \(0, 1\], got 0.0'),
        (dict(gamma=1.5), 'got 1.5'),
        (dict(timing='later'), r"timing must be one of \('after', 'before'\), got 'later'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ARDecayHook(**settings)


def test_a_run_without_bop_is_refused(tiny_config):
    optimizers = dict(_delete_=True, sgd=dict(type='SGD', owns='rest', lr=0.1))
    cfg = tiny_config(
        optim_wrapper=dict(optimizers=optimizers), param_scheduler=None, default_hooks=dict(flips=None, prune=None)
    )
    with pytest.raises(ValueError, match=r'ARDecayHook: no optimizer .* is a Bop.*ar_decay=None'):
        PabRunner.from_cfg(cfg).train()


@pytest.mark.parametrize('hook', ['ARDecayHook', 'FlipCountHook'])
def test_a_run_without_epochs_is_refused(tiny_config, hook):
    cfg = tiny_config(train_cfg=dict(_delete_=True, type='IterBasedTrainLoop', max_iters=5))
    cfg.default_hooks.flips = cfg.default_hooks.ar_decay = None
    cfg.custom_hooks = [dict(type=hook)]
    with pytest.raises(ValueError, match=rf'{hook}: counts in epochs, .* is IterBasedTrainLoop; set train_cfg.type='):
        PabRunner.from_cfg(cfg).train()
