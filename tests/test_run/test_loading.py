import collections
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from pab.pruners import apply_masks_, register_masks_
from pab.run.checkpoint import UnusableCheckpoint, check_fits, history_from_plain, load_safely, to_plain
from pab.run.work_dir import find_newest
from tests.small_run import run_in_child, small_config, train, train_and_kill


class Hostile:
    """Pickled, it is a call: whoever unpickles it creates a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def a_run_at(step, epoch=0, **more):
    return dict(meta=dict(iter=step, epoch=epoch), state_dict={}, message_hub={}, optimizer={}, **more)


def save(content, path):
    torch.save(content, path)
    return path


# ---- plain data


def test_plain_data_by_hand():
    dropped = []
    value = {
        'meta': collections.OrderedDict(a=np.float64(0.5), b=np.arange(3), c=(1, [2.0, None]), d={'y', 'x'}),
        'milestones': collections.Counter([4, 4, 6]),
        'thing': object(),
    }
    plain = to_plain(value, 'checkpoint', dropped)
    assert plain['meta'].pop('b').tolist() == [0, 1, 2]
    assert plain == {
        'meta': {'a': 0.5, 'c': (1, [2.0, None]), 'd': ['x', 'y']},
        'milestones': {4: 2, 6: 1},
        'thing': None,
    }
    assert type(plain['meta']) is dict
    assert dropped == ['checkpoint.thing (object)']


@pytest.mark.parametrize('log', [[1, 2, 3], [0.1, float('nan'), 3e300], []])
def test_histories_come_back_with_the_same_numbers_and_types(tmp_path, log):
    before = HistoryBuffer(log, [1] * len(log), max_length=7)
    path = save(to_plain({'loss': before}, 'hub', []), tmp_path / 'f.pth')
    after = history_from_plain(load_safely(path)['loss'])
    for old, new in zip(before.data, after.data, strict=True):
        assert old.dtype == new.dtype
        np.testing.assert_array_equal(old, new)
    after.update(4.5)
    assert after.current() == 4.5
    assert after.max_length == 7


# ---- safe loading


@pytest.mark.parametrize('legacy', [False, True])
def test_a_hostile_checkpoint_runs_nothing(tmp_path, legacy):
    marker = tmp_path / 'marker'
    path = tmp_path / 'epoch_1.pth'
    torch.save(a_run_at(3, evil=Hostile(marker)), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UnusableCheckpoint, match=r'epoch_1.pth is refused: it asks for \S*mkdir, and only plain data'):
        load_safely(path)
    with pytest.raises(UnusableCheckpoint, match=r'epoch_1.pth is damaged; remove'):
        find_newest([tmp_path], lambda _: None)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the file does what it says
    assert marker.exists()


def test_a_plain_pickle_that_runs_code_is_refused(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(pickle.dumps(Hostile(tmp_path / 'marker')))
    with pytest.raises(UnusableCheckpoint, match=r'epoch_1.pth is (refused|truncated)'):
        load_safely(path)
    assert not (tmp_path / 'marker').exists()


@pytest.mark.parametrize('how', ['resume', 'load_from'])
def test_a_run_refuses_a_hostile_checkpoint(tmp_path, how):
    path = save(a_run_at(3, evil=Hostile(tmp_path / 'marker')), tmp_path / 'evil.pth')
    status, error = run_in_child(train, small_config(tmp_path / 'run', load_from=str(path), resume=how == 'resume'))
    assert status == 0
    assert 'evil.pth is refused: it asks for' in str(error)
    assert not (tmp_path / 'marker').exists()


def test_a_config_in_a_checkpoint_is_not_run(tmp_path):
    folder = tmp_path / 'run'
    assert run_in_child(train_and_kill, small_config(folder), 15, 'after')[0] == -9
    path = folder / 'epoch_1.pth'
    checkpoint = torch.load(path)
    checkpoint['meta']['config'] = f'import os\nos.mkdir({str(tmp_path / "marker")!r})\n'
    torch.save(checkpoint, path)
    status, end = run_in_child(train, small_config(folder, resume=True))
    assert (status, end['progress']) == (0, (3, 30))
    assert not (tmp_path / 'marker').exists()


@pytest.mark.parametrize(
    ('damage', 'reason'),
    [
        (lambda data: b'', r'is empty \(0 bytes\)'),
        (lambda data: data[: len(data) // 2], 'is truncated or was not written by torch'),
        (lambda data: data[:-1], 'is truncated or was not written by torch'),
        (lambda data: bytes(len(data)), 'is truncated or was not written by torch'),
        (lambda data: b'\x89PNG' + bytes(100), 'is truncated or was not written by torch'),
        (lambda data: data.replace(b'\x00\x00\x80\x3f' * 8, b'\x00\x00\x00\x40' * 8), 'is damaged: the checksum of'),
    ],
    ids=['empty', 'half', 'one-byte-short', 'zeros', 'picture', 'flipped-bits'],
)
def test_damage_is_named(tmp_path, damage, reason):
    path = save({'w': torch.ones(64)}, tmp_path / 'epoch_1.pth')
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UnusableCheckpoint, match=f'epoch_1.pth {reason}'):
        load_safely(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'there is no checkpoint .*epoch_9.pth'):
        load_safely(tmp_path / 'epoch_9.pth')


# ---- the newest


def test_the_newest_is_the_one_with_most_steps_whatever_its_name_and_date(tmp_path):
    said = []
    newest = save(a_run_at(30, 3), tmp_path / 'epoch_3.pth')
    save(a_run_at(24, 2), tmp_path / 'interrupted.pth')
    os.utime(newest, (0, 0))
    (tmp_path / 'last_checkpoint').write_text('/somewhere/else/epoch_2.pth')
    save(dict(meta=dict(iter=40, epoch=4), state_dict={}, message_hub={}), tmp_path / 'best_accuracy_epoch_4.pth')
    assert find_newest([tmp_path, tmp_path / 'none'], said.append) == newest
    assert said == []


def test_what_is_passed_over_is_named(tmp_path):
    said = []
    good = save(a_run_at(10, 1), tmp_path / 'epoch_1.pth')
    truncated = save(a_run_at(20, 2, more=torch.ones(999)), tmp_path / 'epoch_2.pth')
    truncated.write_bytes(truncated.read_bytes()[:-50])
    (tmp_path / 'epoch_3.pth').touch()
    save({'conv1.weight': torch.ones(3)}, tmp_path / 'resnet.pth')
    save([1, 2], tmp_path / 'list.pth')
    save(a_run_at(50, 5), tmp_path / 'diverged_iter_50.pth')
    flipped = save(a_run_at(40, 4, more=torch.ones(64)), tmp_path / 'epoch_4.pth')
    flipped.write_bytes(flipped.read_bytes().replace(b'\x00\x00\x80\x3f' * 8, b'\x00\x00\x00\x40' * 8))
    assert find_newest([tmp_path], said.append) == good
    words = [
        ('epoch_2.pth', 'truncated'),
        ('epoch_3.pth', 'empty'),
        ('resnet.pth', 'no checkpoint to resume a run from, it has no meta'),
        ('list.pth', 'no checkpoint to resume a run from'),
        ('diverged_iter_50.pth', 'no longer finite'),
        ('epoch_4.pth', 'checksum'),
    ]
    assert len(said) == len(words)
    for name, reason in words:
        assert any(f'{name}' in sentence and reason in sentence for sentence in said), (name, said)


def test_nothing_but_damaged_files_is_an_error_and_nothing_at_all_is_not(tmp_path):
    assert find_newest([tmp_path], lambda _: None) is None
    (tmp_path / 'epoch_3.pth').touch()
    with pytest.raises(UnusableCheckpoint, match=r'no checkpoint in .* can be resumed: epoch_3.pth is damaged; remove'):
        find_newest([tmp_path], lambda _: None)


# ---- the model it belongs to


def net(width=4, **layers):
    return nn.Sequential(collections.OrderedDict(conv=nn.Conv2d(1, width, 3), head=nn.Linear(width, 2), **layers))


def masked(width=4):
    model = net(width)
    mask = torch.ones(width, 1, 3, 3, dtype=torch.bool)
    mask[0] = False
    apply_masks_(model, {'conv.weight': mask})
    return model


@pytest.mark.parametrize(
    ('model', 'other', 'message'),
    [
        (
            net(),
            net(5),
            r'f.pth is a checkpoint of another model: conv.weight is \(5, 1, 3, 3\) there and \(4, 1, 3, 3\) h',
        ),
        (
            net(),
            net(norm=nn.BatchNorm2d(2)),
            'another model: it has norm.weight, norm.bias, norm.running_mean and 2 more. G',
        ),
        (
            net(norm=nn.BatchNorm2d(2)),
            net(),
            'another model: it lacks norm.weight, norm.bias, norm.running_mean and 1 more',
        ),
        (masked(), net(), "f.pth does not fit the masks of this run: .* has no mask 'conv.weight_mask'"),
        (
            net(),
            masked(),
            "does not fit the masks of this run: .* has a mask 'conv.weight_mask', but the model has none",
        ),
    ],
    ids=['shape', 'extra', 'missing', 'no-mask', 'extra-mask'],
)
def test_what_does_not_fit_is_named(model, other, message):
    with pytest.raises(UnusableCheckpoint, match=message):
        check_fits(model, other.state_dict(), 'f.pth')


def test_contradictory_masks_do_not_fit():
    state = masked().state_dict()
    state['conv.weight'][0] = 1
    model = net()
    register_masks_(model)
    with pytest.raises(UnusableCheckpoint, match='contradicts its mask: 9 pruned weights are not 0'):
        check_fits(model, state, 'f.pth')
    check_fits(model, masked().state_dict(), 'f.pth')


@pytest.mark.parametrize('resume', [True, False], ids=['resume', 'load_from'])
def test_a_run_refuses_the_checkpoint_of_another_model_before_training(tmp_path, resume):
    assert run_in_child(train_and_kill, small_config(tmp_path / 'run'), 15, 'after')[0] == -9
    options = dict(load_from=str(tmp_path / 'run' / 'epoch_1.pth'), resume=resume, model__network__width=5)
    options['default_hooks__resume_check__allow_changes'] = True
    _, error = run_in_child(train, small_config(tmp_path / 'other', **options))
    assert isinstance(error, ValueError)
    assert 'epoch_1.pth is a checkpoint of another model: network.conv1.weight is (6, 1, 3, 3) there and' in str(error)
    assert not list((tmp_path / 'other').glob('*.pth'))


def test_what_has_no_run_in_it_cannot_be_resumed(tmp_path):
    assert run_in_child(train, small_config(tmp_path / 'run', train_cfg__max_epochs=2))[0] == 0
    best = next((tmp_path / 'run').glob('best_*.pth'))
    _, error = run_in_child(train, small_config(tmp_path / 'other', resume=True, load_from=str(best)))
    assert f'{best} cannot be resumed: it has no optimizer; resume from an epoch_*.pth' in str(error)
    _, error = run_in_child(train, small_config(tmp_path / 'other', resume=True, load_from=str(tmp_path / 'no.pth')))
    assert f'there is no checkpoint {tmp_path / "no.pth"}' in str(error)


def test_every_file_of_a_run_is_sound_and_loads_with_weights_only(tmp_path):
    assert run_in_child(train, small_config(tmp_path / 'run'))[0] == 0
    files = sorted(f.name for f in (tmp_path / 'run').glob('*.pth'))
    assert files[-2:] == ['epoch_2.pth', 'epoch_3.pth']  # the last two
    assert len(files) == 3  # and the best
    for name in files:
        assert zipfile.ZipFile(tmp_path / 'run' / name).testzip() is None
        checkpoint = torch.load(tmp_path / 'run' / name, weights_only=True)
        assert (
            len(checkpoint['message_hub']['log_scalars']['train/loss']['history']['values'])
            == 10 * checkpoint['meta']['epoch']
        )
