import signal

import pytest
import torch

from pab.run.interrupt import resume_command
from tests.small_run import KillHook, run_in_child, small_config, train, train_and_kill


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The end of an uninterrupted run."""
    return run_in_child(train, small_config(tmp_path_factory.mktemp('whole')))[1]


@pytest.mark.parametrize(
    ('number', 'status', 'stage'),
    [(signal.SIGINT, 130, 'in'), (signal.SIGTERM, 143, 'before'), (signal.SIGTERM, 143, 'after')],
)
def test_a_signal_ends_the_run_after_the_step_with_nothing_lost(tmp_path, whole, number, status, stage):
    folder, step = tmp_path / 'run', 14
    assert run_in_child(train_and_kill, small_config(folder), step, stage, number) == (status, None)
    saved = torch.load(folder / 'interrupted.pth')
    assert (saved['meta']['epoch'], saved['meta']['iter']) == (1, step)
    log = next(folder.glob('*/*.log')).read_text()
    assert (
        f'Stopped by {signal.Signals(number).name} after step {step} of 30; the checkpoint is in {folder}. Go on' in log
    )
    assert '--resume' in log.splitlines()[-1]
    _, end = run_in_child(train, small_config(folder, resume=True))
    assert end == whole


def test_with_loader_workers_that_are_told_too(tmp_path):
    cfg = small_config(tmp_path / 'run', train_dataloader__num_workers=2)
    assert run_in_child(_signal_the_group, cfg, 14) == (143, None)
    assert torch.load(tmp_path / 'run' / 'interrupted.pth')['meta']['iter'] in (13, 14)


def _signal_the_group(cfg, step):
    import os

    os.setpgid(0, 0)
    KillHook._kill = lambda self: os.killpg(0, signal.SIGTERM)
    return train_and_kill(cfg, step, 'before')


def _signal_in_validation(cfg, save_best):
    import os

    def prepare(runner):
        step = runner.model.val_step

        def val_step(data):
            if runner.epoch == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(data)

        runner.model.val_step = val_step

    return train(cfg, prepare)


@pytest.mark.parametrize('interval', [1, 3])
def test_a_signal_in_a_validation(tmp_path, whole, interval):
    folder = tmp_path / 'run'
    cfg = small_config(folder, default_hooks__checkpoint__interval=interval)
    assert run_in_child(_signal_in_validation, cfg, True) == (143, None)
    # at once where the epoch is saved, else when the validation is over
    assert (folder / 'interrupted.pth').exists() == (interval == 3)
    cfg.resume = True
    _, end = run_in_child(train, cfg)
    assert end == whole


def test_a_second_ctrl_c_ends_a_run_at_once(tmp_path):
    assert run_in_child(_interrupt_twice, small_config(tmp_path / 'run'))[0] == 1
    assert not (tmp_path / 'run' / 'interrupted.pth').exists()


def _interrupt_twice(cfg):
    def twice(hook):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    KillHook._kill = twice
    return train_and_kill(cfg, 14, 'in')


def test_signals_are_given_back(tmp_path):
    assert run_in_child(_handlers_after, small_config(tmp_path / 'run')) == (0, (True, True))


def _handlers_after(cfg):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    train(cfg)
    return tuple(signal.getsignal(n) == b for n, b in zip((signal.SIGINT, signal.SIGTERM), before, strict=True))


@pytest.mark.parametrize(
    ('argv', 'environment', 'command'),
    [
        (['tools/train.py', 'c.py'], {}, 'python tools/train.py c.py --resume'),
        (['tools/train.py', 'c.py', '--resume'], {}, 'python tools/train.py c.py --resume'),
        (['t.py', 'c.py', '--resume', 'a b.pth', '--seed', '1'], {}, 'python t.py c.py --seed 1 --resume'),
        (['t.py', 'c.py', '--resume=a.pth'], {}, 'python t.py c.py --resume'),
        (['t.py', 'c.py', '--cfg-options', 'a=b c'], {}, "python t.py c.py --cfg-options 'a=b c' --resume"),
        (['t.py', 'c.py'], {'TORCHELASTIC_RUN_ID': '1'}, 'torchrun (as before) t.py c.py --resume'),
        (['t.py'], {'PAB_COMMAND': 'tools/dist_train.sh c.py 8'}, 'tools/dist_train.sh c.py 8 --resume'),
    ],
)
def test_the_command_that_goes_on(argv, environment, command):
    assert resume_command(argv, environment) == command
