"""What checkpoints hold, what of them is loaded, and from where."""

import collections
import functools
import http.server
import io
import math
import os
import pickle
import re
import threading
import warnings
import zipfile

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from torch import nn

from pab.hooks.method.prune_to_file import prune_to_file
from pab.hooks.method.pruning import hash_file
from pab.pruners import apply_masks_, register_masks_
from pab.registry import RUNNERS
from pab.run.checkpoint import UnusableCheckpoint, check_fits, history_from_plain, load_safely, to_plain
from pab.run.work_dir import find_newest
from tests.small_run import RUNS, run_in_child, small_config, train


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
    with pytest.raises(UnusableCheckpoint, match=r'epoch_1.pth is damaged or not finite; remove'):
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


def test_a_config_in_a_checkpoint_is_not_run(stopped, tmp_path):
    checkpoint = torch.load(stopped)
    checkpoint['meta']['config'] = f'import os\nos.mkdir({str(tmp_path / "marker")!r})\n'
    path = save(checkpoint, tmp_path / 'evil.pth')
    status, end = run_in_child(train, small_config(tmp_path / 'run', resume=True, load_from=str(path)))
    assert (status, end['progress']) == (0, (3, 30))
    assert not (tmp_path / 'marker').exists()


def zipped(content):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, 'w') as file:
        file.writestr('some/data.pkl', content)
    return archive.getvalue()


@pytest.mark.parametrize(
    ('damage', 'reason'),
    [
        (lambda data: b'', r'is empty \(0 bytes\)'),
        (lambda data: data[: len(data) // 2], 'is truncated or was not written by torch'),
        (lambda data: data[:-1], 'is truncated or was not written by torch'),
        (lambda data: bytes(len(data)), 'is truncated or was not written by torch'),
        (lambda data: b'\x89PNG' + bytes(100), 'is truncated or was not written by torch'),
        (lambda data: b'hello world', 'is truncated or was not written by torch'),
        (lambda data: zipped(b'a file'), 'is truncated or was not written by torch'),
        (lambda data: pickle.dumps({'w': 1}), 'is truncated or was not written by torch'),
        (lambda data: data.replace(b'\x00\x00\x80\x3f' * 8, b'\x00\x00\x00\x40' * 8), 'is damaged: the checksum of'),
    ],
    ids=['empty', 'half', 'one-byte-short', 'zeros', 'picture', 'text', 'archive', 'pickle', 'flipped-bits'],
)
def test_damage_is_named(tmp_path, damage, reason):
    path = save({'w': torch.ones(64)}, tmp_path / 'epoch_1.pth')
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UnusableCheckpoint, match=f'epoch_1.pth {reason}') as caught:
        load_safely(path)
    assert not re.search('weights_only|miniz|Errno|\\n', str(caught.value))  # the advice of torch is not ours


def test_a_folder_and_a_torchscript_program_are_named(tmp_path):
    with pytest.raises(UnusableCheckpoint, match=f'^{tmp_path} cannot be read: Is a directory$'):
        load_safely(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', category=FutureWarning)
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / 'net.pt'))
        warnings.simplefilter('error')
        with pytest.raises(UnusableCheckpoint, match=r'net.pt is refused: it is a TorchScript program, and only plain'):
            load_safely(tmp_path / 'net.pt')


def test_what_torch_will_not_load_as_plain_data_is_refused(tmp_path):
    torch.save({'w': bytearray(b'x')}, tmp_path / 'epoch_1.pth', pickle_protocol=5)
    with pytest.raises(UnusableCheckpoint, match=r'epoch_1.pth is refused: it holds more than plain data, and only'):
        load_safely(tmp_path / 'epoch_1.pth')


def test_a_sound_file_that_has_no_place_is_not_called_truncated(tmp_path):
    path = save({'w': torch.ones(64)}, tmp_path / 'epoch_1.pth')
    with pytest.raises(UnusableCheckpoint, match=r'epoch_1.pth cannot be loaded: .*nowhere'):
        load_safely(path, map_location='nowhere')


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'there is no checkpoint .*epoch_9.pth'):
        load_safely(tmp_path / 'epoch_9.pth')


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
            r'another model: norm.weight is \(2,\) there and missing here; .*norm.running_mean is .* and 2 more. G',
        ),
        (
            net(norm=nn.BatchNorm2d(2)),
            net(),
            r'another model: norm.weight is missing there and \(2,\) here; .*norm.running_mean is .* and 1 more',
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


# ---- what runs load


def refusal(folder, **options):
    """Why a run does not begin."""
    with pytest.raises((ValueError, OSError)) as caught:
        train(small_config(folder, experiment_name=f'refused_{next(RUNS)}', **options))
    assert not list(folder.glob('*.pth'))
    return str(caught.value)


def test_a_run_refuses_the_checkpoint_of_another_model_before_training(stopped, tmp_path):
    options = dict(model__network__width=5, default_hooks__resume_check__allow_changes=True)
    reason = 'epoch_1.pth is a checkpoint of another model: network.conv1.weight is (6, 1, 3, 3) there and'
    for resume in (True, False):
        assert reason in refusal(tmp_path / 'other', load_from=str(stopped), resume=resume, **options)


def test_a_file_that_is_named_but_cannot_be_resumed(finished, stopped, tmp_path):
    best = next(finished.folder.glob('best_*.pth'))
    reason = f'{best} cannot be resumed: it has no optimizer; resume from an epoch_*.pth'
    assert reason in refusal(tmp_path / 'run', resume=True, load_from=str(best))
    reason = f'there is no checkpoint {tmp_path / "no.pth"}'
    assert reason in refusal(tmp_path / 'run', resume=True, load_from=str(tmp_path / 'no.pth'))
    checkpoint = torch.load(stopped)
    checkpoint['state_dict']['network.linear.bias'][0] = math.nan
    path = save(checkpoint, tmp_path / 'nan.pth')
    reason = f'{path} cannot be resumed: state_dict.network.linear.bias is not finite'
    assert reason in refusal(tmp_path / 'run', resume=True, load_from=str(path))


class AlwaysBestHook(Hook):
    def before_val_epoch(self, runner):
        runner.message_hub.update_info('best_score', -1.0)


def test_every_file_of_a_run_is_sound_and_loads_with_weights_only(finished):
    files = sorted(finished.folder.glob('*.pth'))
    assert [path.name for path in files][-2:] == ['epoch_2.pth', 'epoch_3.pth']  # the last two
    assert len(files) == 3  # and the best
    for path in files:
        assert zipfile.ZipFile(path).testzip() is None
        checkpoint = torch.load(path, weights_only=True)
        losses = checkpoint['message_hub']['log_scalars']['train/loss']['history']['values']
        assert len(losses) == 10 * checkpoint['meta']['epoch']
        assert checkpoint['meta']['epoch_length'] == 10


# ---- where files are


@pytest.fixture
def served(tmp_path):
    """A folder, and the address under which this machine serves it."""
    (tmp_path / 'served').mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / 'served')
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path / 'served', f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def _prune(cfg, path):
    prune_to_file(RUNNERS.build(cfg), path)


def _train_at_home(cfg, home):
    os.environ['HOME'] = str(home)
    return train(cfg)


def test_a_pruned_network_is_loaded_from_home_and_from_an_address(served, tmp_path):
    folder, address = served
    assert run_in_child(_prune, small_config(tmp_path / 'prune'), folder / 'pruned.pth')[0] == 0
    ends = {}
    for source in ('~/pruned.pth', f'file://{folder}/pruned.pth', f'{address}/pruned.pth'):
        cfg = small_config(tmp_path / f'run_{len(ends)}', load_from=source, train_cfg__max_epochs=2)
        status, ends[source] = run_in_child(_train_at_home, cfg, folder)
        assert status == 0, ends[source]
    first, *others = ends.values()
    assert {end['pruning']['pruned_from']['sha256'] for end in ends.values()} == {hash_file(folder / 'pruned.pth')}
    assert all(end['weights'] == first['weights'] for end in others)
    assert first['pruning']['shots_done'] == 2


def test_what_is_fetched_is_loaded_as_safely(served, tmp_path):
    folder, address = served
    save(a_run_at(3, evil=Hostile(tmp_path / 'marker')), folder / 'evil.pth')
    assert 'evil.pth is refused: it asks for' in refusal(tmp_path / 'a', load_from=f'{address}/evil.pth')
    assert 'evil.pth is refused' in refusal(tmp_path / 'a', load_from=str(folder / 'evil.pth'), resume=True)
    assert not (tmp_path / 'marker').exists()
    reason = f'load_from: cannot fetch {address}/no.pth: HTTP Error 404'
    assert reason in refusal(tmp_path / 'a', load_from=f'{address}/no.pth')
    reason = "load_from: must be a path or an address of file, http or https, got 'torchvision://resnet18'"
    assert reason in refusal(tmp_path / 'a', load_from='torchvision://resnet18')
