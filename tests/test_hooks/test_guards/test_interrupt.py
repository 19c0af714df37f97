import copy
import os
import signal
import time
from collections.abc import Iterable
from typing import NamedTuple

import pytest
import torch
import torch.distributed as torch_dist
from torch.utils.data import DataLoader

from pab.datasets import EpochSampler
from pab.hooks.guards.interrupt import _Votes, resume_command
from pab.run.loops import EnduringLoader
from tests.small_run import KillHook, run_in_child, run_ranks, small_config, train, train_and_kill


@pytest.mark.parametrize(
    ('number', 'status', 'stage'),
    [
        (signal.SIGINT, 130, 'in'),
        pytest.param(signal.SIGTERM, 143, 'before', marks=pytest.mark.slow),
        (signal.SIGTERM, 143, 'after'),
    ],
)
def test_a_signal_ends_the_run_after_the_step_with_nothing_lost(tmp_path, finished, number, status, stage):
    folder, step = tmp_path / 'run', 14
    assert run_in_child(train_and_kill, small_config(folder), step, stage, number) == (status, None)
    saved = torch.load(folder / 'interrupted.pth')
    assert (saved['meta']['epoch'], saved['meta']['iter']) == (1, step)
    log = next(folder.glob('*/*.log')).read_text()
    assert (
        f'Stopped by {signal.Signals(number).name} after step {step} of 30; the checkpoint is in {folder}. Go on' in log
    )
    assert '--resume' in log.splitlines()[-1]
    if stage == 'in':
        assert run_in_child(train, small_config(folder, resume=True)) == (0, finished.end)


def _poison_and_tell(cfg, where):
    def prepare(runner):
        class PoisonHook(KillHook):
            def _kill(self):
                if where == 'weight':
                    runner.model.network.linear.weight.data[0, 0] = float('inf')
                else:
                    next(iter(runner.optim_wrapper['signs'].optimizer.state.values()))['moving_average'].fill_(
                        float('nan')
                    )
                super()._kill()

        runner.register_hook(PoisonHook(14, 'after', signal.SIGTERM))

    return train(cfg, prepare)


@pytest.mark.parametrize('where', ['weight', 'average'])
def test_no_resume_takes_a_state_that_is_not_finite(tmp_path, finished, where):
    folder = tmp_path / 'run'
    assert run_in_child(_poison_and_tell, small_config(folder), where) == (143, None)
    assert not (folder / 'interrupted.pth').exists()
    assert torch.load(folder / 'diverged_iter_14.pth')['meta']['iter'] == 14
    assert 'which is not finite. Go on with' in next(folder.glob('*/*.log')).read_text()
    if where == 'weight':
        cfg = small_config(folder, resume=True)  # from the end of the first epoch
        assert run_in_child(train, cfg) == (0, finished.end)


def _poison_at_the_end_of_an_epoch(cfg):
    def prepare(runner):
        class PoisonHook(KillHook):
            def _kill(self):
                runner.model.network.linear.weight.data[0, 0] = float('inf')

        runner.register_hook(PoisonHook(20, 'after'))

    return train(cfg, prepare)


def test_an_epoch_that_ends_with_infinite_weights_is_not_saved(tmp_path):
    cfg = small_config(tmp_path / 'run', default_hooks__checkpoint__max_keep_ckpts=1)
    _, error = run_in_child(_poison_at_the_end_of_an_epoch, cfg)
    assert isinstance(error, FloatingPointError)
    assert 'epoch_2.pth is not written, because network.linear.weight is not finite; go on from a' in str(error)
    assert (tmp_path / 'run' / 'epoch_1.pth').exists()
    assert not (tmp_path / 'run' / 'epoch_2.pth').exists()


def _batches(skip, kill, told):
    """The batches of a loader whose two workers are killed after the second batch."""
    sampler = EpochSampler(range(40), shuffle=False)
    loader = DataLoader(range(40), 4, sampler=sampler, num_workers=2, timeout=2 * kill, multiprocessing_context='fork')
    loader.__class__, EnduringLoader.workers_may_end = EnduringLoader, told
    loader.generator, state, seen = torch.Generator(), torch.get_rng_state(), []
    assert loader.skip(skip) == skip
    for batch in loader:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        seen.append(batch.tolist())
        if kill and len(seen) == 2:
            for worker in torch.multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGKILL)
                worker.join()
    assert torch.equal(state, torch.get_rng_state())
    return seen


def test_a_loader_gives_all_batches_although_its_workers_are_ended():
    want = [list(range(i, i + 4)) for i in range(0, 40, 4)]
    assert run_in_child(_batches, 0, False, False) == (0, want)
    assert run_in_child(_batches, 0, True, True) == (0, want)
    assert run_in_child(_batches, 3, True, True) == (0, want[3:])
    assert isinstance(run_in_child(_batches, 0, True, False)[1], RuntimeError)


@pytest.mark.slow
def test_with_loader_workers_that_are_told_too(tmp_path, finished):
    folder = tmp_path / 'run'
    assert run_in_child(_signal_the_group, small_config(folder, train_dataloader__num_workers=2), 14) == (143, None)
    assert torch.load(folder / 'interrupted.pth')['meta']['iter'] == 14
    assert run_in_child(train, small_config(folder, resume=True))[1] == finished.end


def _signal_the_group(cfg, step):
    os.setpgid(0, 0)
    KillHook._kill = lambda self: os.killpg(0, signal.SIGTERM)
    return train_and_kill(cfg, step, 'before')


def _signal_in_validation(cfg):
    def prepare(runner):
        step = runner.model.val_step

        def val_step(data):
            if runner.epoch == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(data)

        runner.model.val_step = val_step

    return train(cfg, prepare)


@pytest.mark.parametrize('interval', [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_signal_in_a_validation(tmp_path, finished, interval):
    folder = tmp_path / 'run'
    cfg = small_config(folder, default_hooks__checkpoint__interval=interval)
    assert run_in_child(_signal_in_validation, cfg) == (143, None)
    # at once where the epoch is saved, else when the validation is over
    assert (folder / 'interrupted.pth').exists() == (interval == 3)
    cfg.resume = True
    _, end = run_in_child(train, cfg)
    assert end == finished.end


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
    cfg = small_config(tmp_path / 'run', train_cfg__max_epochs=1, default_hooks__prune__epoch=0)
    assert run_in_child(_handlers_after, cfg) == (0, (True, True))


def _handlers_after(cfg):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    train(cfg)
    return tuple(signal.getsignal(n) == b for n, b in zip((signal.SIGINT, signal.SIGTERM), before, strict=True))


class TellHook(KillHook):
    """Tell a process, or it and all that it started, to end: at a step, or in the validation behind it."""

    def __init__(self, step, stage, group):
        super().__init__(step, stage)
        self.group = group

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if (runner.iter, self.stage, batch_idx) == (self.step, 'val', 1):
            self._kill()

    def _kill(self):
        (os.killpg if self.group else os.kill)(0 if self.group else os.getpid(), signal.SIGTERM)


class Scenario(NamedTuple):
    """Ranks that are told at a stage of a step; with workers, all processes of their group are."""

    ranks: tuple[int, ...]
    step: int
    stage: str
    allowed: Iterable[int]  # the steps after which all may stop
    workers: bool = False
    changes: dict = {}


ONE_STEP = {'train_dataloader.dataset.num': 8, 'train_cfg.max_epochs': 1, 'default_hooks.prune.epoch': 0}
SCENARIOS = {
    'in an epoch': Scenario((1,), 3, 'in', range(4, 11)),
    'at its end': Scenario((1,), 10, 'after', [10]),
    'at the end of the run': Scenario((1,), 30, 'after', [30]),
    'in a validation': Scenario((1,), 10, 'val', [10]),
    'in the last validation': Scenario((0,), 30, 'val', [30]),
    'at the only step': Scenario((1,), 1, 'before', [1], changes=ONE_STEP),
    'at the end without a validation': Scenario((0,), 30, 'after', [30], changes={'train_cfg.val_begin': 9}),
    'with workers': Scenario((1,), 13, 'before', range(13, 21), workers=True),
    'with workers in a validation': Scenario((0, 1), 10, 'val', [10], workers=True),
}


def _tell(cfg, scenario):
    """Train and be told: the exit status, or the state of a run that went on to its end, and the last iteration."""
    runners = []

    def prepare(runner):
        runners.append(runner)
        if int(os.environ['RANK']) in scenario.ranks:
            runner.register_hook(TellHook(scenario.step, scenario.stage, scenario.workers))

    try:
        ended = train(cfg, prepare)
    except SystemExit as error:
        ended = error.code
    return ended, runners[0].iter


def _tell_each(cfg, names):
    """One process of the job: the end of the whole run, and of scenarios; where one was resumed, of that run too."""
    os.setpgid(0, 0)
    ends = {'whole': train(_named(cfg, 'whole'))}
    for name in names:
        scenario = SCENARIOS[name]
        here = _named(cfg, _folder(name), **scenario.changes)
        if scenario.workers:
            for loader in (here.train_dataloader, here.val_dataloader):
                loader.update(num_workers=1, timeout=4)  # seconds, until the loader sees that its worker is gone
        ends[name] = _tell(here, scenario)
        if scenario.workers:
            ends[f'{name}, resumed'] = train(_named(here, _folder(name), resume=True))
    return ends


def _folder(name):
    return name.replace(' ', '_')


def _named(cfg, name, **options):
    """A copy of a config with a folder, and therefore a logger, of its own."""
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(options)
    cfg.work_dir, cfg.experiment_name = os.path.join(os.path.dirname(cfg.work_dir), name), f'{name}-{time.time_ns()}'
    return cfg


@pytest.fixture(scope='module')
def told(tmp_path_factory, request):
    """Its folder, and what :func:`_tell_each` returned in the two processes of one job, of what is tested today."""
    folder = tmp_path_factory.mktemp('told')
    tested = {
        test.callspec.params['name']
        for test in request.session.items
        if test.path == request.path and 'told' in test.fixturenames
    }
    names = [name for name in SCENARIOS if name in tested]
    ranks = run_ranks(2, _tell_each, small_config(folder / 'run', train_dataloader__batch_size=4), names)
    assert [status for status, _ in ranks] == [0, 0]
    return folder, [ends for _, ends in ranks]


@pytest.mark.slow
@pytest.mark.parametrize('name', SCENARIOS)
def test_processes_stop_at_the_same_step_whichever_is_told(told, name):
    folder, (first, second) = told
    status, _ = first[name]
    assert first[name] == second[name]
    assert status == 143
    assert torch.load(folder / _folder(name) / 'interrupted.pth')['meta']['iter'] in SCENARIOS[name].allowed


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name, scenario in SCENARIOS.items() if scenario.workers])
def test_a_job_whose_workers_were_told_resumes_exactly(told, name):
    for ends in told[1]:
        whole, resumed = ends['whole'], ends[f'{name}, resumed']
        assert {key for key in resumed if whole[key] != resumed[key]} <= {'scalars'}


def test_processes_ask_each_other_about_once_a_second(monkeypatch):
    """With a clock that a step moves on, and another process that is as fast."""
    now, asked = [0.0], []
    monkeypatch.setattr(time, 'monotonic', lambda: now[0])
    monkeypatch.setattr(torch_dist, 'new_group', lambda backend: None)
    monkeypatch.setattr(torch_dist, 'all_reduce', lambda *_, **__: asked.append(now[0]) or Answered())

    class Answered:
        def wait(self):
            pass

    votes = _Votes()
    for seconds, apart in [(0.25, 1.0), (0.001, 0.05), (3.0, 3.0)]:  # of a step; of two votes
        for _ in range(200):
            now[0] += seconds
            assert votes.outcome(0, now=False) == 0
        assert asked[-1] - asked[-2] == pytest.approx(apart)
    now[0] += 3
    assert votes.outcome(15, now=False) == 0
    now[0] += 3
    assert votes.outcome(0, now=False) == 15
    assert votes.outcome(2, now=True) == 2


@pytest.mark.parametrize(
    ('argv', 'environment', 'command'),
    [
        (['tools/train.py', 'c.py'], {}, 'python tools/train.py c.py --resume'),
        (['tools/train.py', 'c.py', '--resume'], {}, 'python tools/train.py c.py --resume'),
        (['t.py', 'c.py', '--resume', 'a b.pth', '--seed', '1'], {}, 'python t.py c.py --seed 1 --resume'),
        (['t.py', 'c.py', '--resume=a.pth'], {}, 'python t.py c.py --resume'),
        (['t.py', 'c.py', '--overwrite', '--amp'], {}, 'python t.py c.py --amp --resume'),
        (['t.py', 'c.py', '--cfg-options', 'a=b c'], {}, "python t.py c.py --cfg-options 'a=b c' --resume"),
        (['t.py', 'c.py'], {'TORCHELASTIC_RUN_ID': '1'}, 'torchrun (as before) t.py c.py --resume'),
        (['pab train', 'c.py', '--resume'], {}, 'pab train c.py --resume'),
        (
            ['python -m pab train', 'c.py'],
            {'TORCHELASTIC_RUN_ID': '1'},
            'torchrun (as before) -m pab train c.py --resume',
        ),
        (['t.py'], {'PAB_COMMAND': 'tools/dist_train.sh c.py 8'}, 'tools/dist_train.sh c.py 8 --resume'),
    ],
)
def test_the_command_that_goes_on(argv, environment, command):
    assert resume_command(argv, environment) == command
