"""A resumed run is the run that was never stopped, bit for bit: weights, masks, averages, schedules, counts, order."""

import random
import shutil
import signal

import pytest
import torch

from tests.small_run import EPOCHS, STEPS, KillHook, run_in_child, run_ranks, small_config, train, train_and_kill

EVERY = 2  # steps between checkpoints where they are written in mid-epoch
MID_EPOCH = dict(default_hooks__checkpoint__by_epoch=False, default_hooks__checkpoint__interval=EVERY)
MIXED = dict(
    train_dataloader__sampler__type='BalancedSampler',
    model__class_weights='balanced',
    data_preprocessor__num_classes='auto',
    data_preprocessor__batch_transforms=[
        dict(type='RandomChoice', transforms=[dict(type='MixUp', alpha=0.4), dict(type='CutMix')])
    ],
)


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory, finished):
    """The end of an uninterrupted run with some options, trained once for each."""
    ends = {repr([]): finished.end}

    def end(**options):
        key = repr(sorted(options.items()))
        if key not in ends:
            status, ends[key] = run_in_child(train, small_config(tmp_path_factory.mktemp('whole'), **options))
            assert status == 0
        return ends[key]

    return end


def assert_same(got, want):
    assert isinstance(got, dict), got
    assert list(got) == list(want)
    for part in want:
        different = [k for k in want[part] if got[part].get(k) != want[part][k]] if isinstance(want[part], dict) else []
        assert got[part] == want[part], (part, different)


@pytest.mark.slow
def test_ten_kills_at_random_steps_change_nothing(tmp_path, uninterrupted):
    choose = random.Random(4)
    cfg = small_config(tmp_path / 'run', resume=True, **MID_EPOCH)
    saved = 0  # the steps that are safe
    for kill in range(10):
        # at most two steps of progress for each kill, so that there is a step left for the tenth
        step, stage = saved + choose.randint(1, EVERY + 1), choose.choice(KillHook.STAGES)
        status, _ = run_in_child(train_and_kill, cfg, step, stage)
        assert status == -signal.SIGKILL, (kill, step, stage)
        saved = max([int(f.stem.split('_')[1]) for f in (tmp_path / 'run').glob('iter_*.pth')], default=0)
    assert 0 < saved < EPOCHS * STEPS
    status, end = run_in_child(train, cfg)
    assert status == 0
    assert_same(end, uninterrupted())
    assert not list((tmp_path / 'run').glob('.*.partial'))  # what a kill left is overwritten or removed


@pytest.mark.parametrize(
    ('options', 'step'),
    [
        (dict(), STEPS + 1),
        (dict(train_dataloader__num_workers=1, **MID_EPOCH), 19),
        pytest.param(dict(**MIXED, **MID_EPOCH), 17, marks=pytest.mark.slow),
    ],
    ids=['right after an epoch', 'with workers', 'balanced and mixed'],
)
def test_a_kill_within_a_step_changes_nothing(tmp_path, uninterrupted, options, step):
    cfg = small_config(tmp_path / 'run', **options)
    assert run_in_child(train_and_kill, cfg, step, 'in')[0] == -signal.SIGKILL
    cfg.resume = True
    status, end = run_in_child(train, cfg)
    assert status == 0
    assert_same(end, uninterrupted(**{key: value for key, value in options.items() if key in MIXED}))


@pytest.mark.parametrize(
    ('options', 'every', 'kills', 'partial'),
    [
        (
            dict(optim_wrapper__accumulative_counts=4),
            3,
            [(5, 9), (11, 9), (20, 15), (30, 9)],
            [3, 6, 9, 10, 15, 18, 21, 27],
        ),
        pytest.param(
            dict(
                optim_wrapper__accumulative_counts=3,
                optim_wrapper__precision='float16',  # with the state of the loss scaler
                custom_hooks=[dict(type='mmengine.EMAHook', momentum=0.1)],
            ),
            None,  # files of epochs only
            [(15, 9), (24, 15), (30, 15)],
            [10, 20],
            marks=pytest.mark.slow,
        ),
    ],
    ids=['float32', 'float16 and averages'],
)
def test_kills_between_the_passes_of_a_step_change_nothing(tmp_path, uninterrupted, options, every, kills, partial):
    """An epoch has 10 passes, a step 3 or 4 of them: none ends with the first epoch, the last ends with the run."""
    saving = dict(default_hooks__checkpoint__max_keep_ckpts=-1)
    if every:
        saving |= dict(default_hooks__checkpoint__by_epoch=False, default_hooks__checkpoint__interval=every)
    cfg = small_config(tmp_path / 'run', resume=True, **options, **saving)
    for step, number in kills:
        status, _ = run_in_child(train_and_kill, cfg, step, 'before', number)
        assert status == (143 if number == 15 else -9)
    status, end = run_in_child(train, cfg)
    assert status == 0
    assert_same(end, uninterrupted(**options))
    assert 'gradient of some iterations is lost' not in ''.join(f.read_text() for f in tmp_path.glob('run/*/*.log'))
    files = [torch.load(path) for path in (tmp_path / 'run').glob('*_*.pth') if not path.name.startswith('best')]
    assert sorted(file['meta']['iter'] for file in files if 'partial_gradients' in file) == partial
    assert len(files) > len(partial)


@pytest.fixture(scope='module')
def in_mid_epoch(tmp_path_factory):
    """The work dir of a run that was killed after its 17th step."""
    folder = tmp_path_factory.mktemp('killed')
    assert run_in_child(train_and_kill, small_config(folder, **MID_EPOCH), 17, 'after')[0] == -signal.SIGKILL
    return folder


def test_a_folder_that_was_moved_resumes_from_its_newest_sound_file(tmp_path, uninterrupted, in_mid_epoch):
    folder = tmp_path / 'moved'
    shutil.copytree(in_mid_epoch, folder)
    assert (folder / 'last_checkpoint').read_text().startswith(str(in_mid_epoch))
    newest = folder / 'iter_16.pth'
    newest.write_bytes(newest.read_bytes()[:-1000])
    status, end = run_in_child(train, small_config(folder, resume=True, **MID_EPOCH))
    assert status == 0
    assert_same(end, uninterrupted())
    assert len(list(folder.glob('best_*.pth'))) == 1  # the best one of before, here, is replaced
    assert len(list(in_mid_epoch.glob('*.pth'))) == 3  # there, nothing is touched
    log = max(folder.glob('*/*.log')).read_text()
    assert f'passing over a file: {newest} is truncated' in log
    assert f'Load checkpoint from {folder / "iter_14.pth"}' in log


def test_resume_from_the_middle_of_an_epoch_of_another_length(tmp_path, in_mid_epoch):
    allowed = dict(train_dataloader__batch_size=16, default_hooks__resume_check__allow_changes=True)
    options = dict(resume=True, load_from=str(in_mid_epoch / 'iter_16.pth'), **allowed)
    _, error = run_in_child(train, small_config(tmp_path / 'run', **options, **MID_EPOCH))
    assert isinstance(error, ValueError)
    assert 'in the middle of an epoch of 10 steps, and an epoch now has 5; resume with the batch size' in str(error)


def test_a_drawn_seed_is_kept(tmp_path):
    cfg = small_config(tmp_path / 'run', randomness__seed=None, **MID_EPOCH)
    assert run_in_child(train_and_kill, cfg, 17, 'after')[0] == -9
    cfg.resume = True
    status, end = run_in_child(train, cfg)
    assert status == 0
    seed = end['pruning']['seed']
    assert seed == torch.load(tmp_path / 'run' / f'iter_{EPOCHS * STEPS}.pth')['meta']['seed']
    assert_same(end, run_in_child(train, small_config(tmp_path / 'whole', randomness__seed=seed))[1])


def test_resume_without_a_checkpoint_starts_with_a_warning(tmp_path):
    status, end = run_in_child(train, small_config(tmp_path / 'run', resume=True, train_cfg__max_epochs=2))
    assert (status, end['progress']) == (0, (2, 2 * STEPS))
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert f'WARNING - There is no checkpoint to resume from in {tmp_path / "run"}: training starts from the' in log


def test_a_finished_run_resumes_to_the_same_end(tmp_path, finished):
    shutil.copytree(finished.folder, tmp_path / 'run')
    status, end = run_in_child(train, small_config(tmp_path / 'run', resume=True))
    assert status == 0
    assert_same(end, finished.end)


@pytest.mark.slow  # each alone is in the default suite
def test_two_processes_under_autocast(tmp_path):
    """And with three passes for a step, of which the process that is killed has its own gradients."""
    options = dict(optim_wrapper__precision='bfloat16', optim_wrapper__accumulative_counts=3)
    options['train_dataloader__batch_size'] = 4
    whole = run_ranks(2, train, small_config(tmp_path / 'whole', **options))
    cfg = small_config(tmp_path / 'run', **options, **MID_EPOCH)
    assert [status for status, _ in run_ranks(2, train_and_kill, cfg, 15, 'in')] == [-signal.SIGKILL] * 2
    cfg.resume = True
    ends = run_ranks(2, train, cfg)
    assert [status for status, _ in ends] == [0, 0]
    assert_same(ends[0][1], whole[0][1])
    for end, want in zip(ends, whole, strict=True):  # the first process writes, so the log of the other is its own
        assert end[1]['optimizers'] == want[1]['optimizers']
        assert end[1]['pruning'] == want[1]['pruning']
        assert end[1]['scalars']['flips/step'] == want[1]['scalars']['flips/step']
        parameters = [name for name in want[1]['weights'] if 'running' not in name]
        assert {name: end[1]['weights'][name] for name in parameters} == {
            name: whole[0][1]['weights'][name] for name in parameters
        }
