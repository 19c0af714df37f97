"""Runs that begin with the weights of a file: of another run, or of a network that somebody else trained."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from pab.models import ImageClassifier
from pab.pruners import get_masks
from pab.registry import RUNNERS
from pab.run import RunHook, check_config
from pab.run.checkpoint import UnusableCheckpoint, as_start, check_fits
from tests.small_run import TinyNet, small_config

ONCE = dict(default_hooks__prune=dict(pruner=dict(type='Mag', rounds=1), epoch=0, shots=1), train_cfg__max_epochs=1)
LATENT = dict(model__converter=dict(_delete_=True, type='LatentSigns'))
LATENT |= dict(optim_wrapper__optimizers__signs=dict(_delete_=True, type='SGD', owns=['Conv2d.latent'], lr=1.0))
LATENT |= dict(default_hooks__ar_decay=None, default_hooks__flips=None)
REWIND = dict(
    default_hooks__prune=dict(_delete_=True, type='RewindHook', cycles=1, pruner=dict(type='Mag', density=0.5)),
    default_hooks__ar_decay=None,
    train_cfg__max_epochs=2,
)


class Start(RunHook):
    """Keep what a training starts with, after its pruning."""

    priority = 'LOWEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 0:
            self.state = {name: value.clone() for name, value in runner.network.state_dict().items()}


def start_of(folder, **options):
    """The state of the network at the first step of a run, what the log said, and the runner."""
    runner, hook, said = RUNNERS.build(small_config(folder, **options)), Start(), []
    runner.register_hook(hook)
    runner.logger.addFilter(lambda record: said.append(record.getMessage()) or True)
    runner.train()
    return hook.state, '\n'.join(said), runner


@pytest.fixture
def file(tmp_path):
    """A dense network, saved as torchvision saves its own, and its content."""
    torch.manual_seed(3)
    state = TinyNet().state_dict()
    torch.save(state, tmp_path / 'dense.pth')
    return tmp_path / 'dense.pth', state


def test_a_dense_network_is_loaded_and_then_pruned(tmp_path, file):
    path, dense = file
    state, said, _ = start_of(tmp_path / 'run', load_from=str(path), **ONCE)
    weights = {name: dense[name] for name in ('conv1.weight', 'conv2.weight')}
    size = torch.cat([weight.abs().flatten() for weight in weights.values()])
    least = size.sort().values[int(0.5 * size.numel())]  # by hand: half of them go, the smaller half
    for name, weight in weights.items():
        assert torch.equal(state[f'{name}_mask'], weight.abs() >= least)
        assert torch.equal(state[name], weight * (weight.abs() >= least))
    assert torch.equal(state['linear.weight'], dense['linear.weight'])
    assert f'Load checkpoint from {path}: took 10 of 10 tensors; it is dense, and this run prunes it' in said


def test_the_first_training_of_a_rewinding_is_that_of_the_file(tmp_path, file):
    state, _, runner = start_of(tmp_path / 'run', load_from=str(file[0]), **REWIND)
    assert all(torch.equal(state[name], value) for name, value in file[1].items())
    masks = get_masks(runner.network)
    assert sum(int(mask.sum()) for mask in masks.values()) == sum(mask.numel() for mask in masks.values()) / 2
    # a checkpoint of its dense part starts a run that prunes at once
    pruned, _, _ = start_of(tmp_path / 'next', load_from=str(tmp_path / 'run' / 'epoch_1.pth'), **ONCE)
    assert 0 < pruned['conv2.weight_mask'].sum() < pruned['conv2.weight_mask'].numel()


def test_latents_are_drawn_and_weights_taken(tmp_path, file):
    fresh, _, _ = start_of(tmp_path / 'fresh', **ONCE, **LATENT)
    state, said, _ = start_of(tmp_path / 'run', load_from=str(file[0]), **ONCE, **LATENT)
    assert torch.equal(state['conv1.latent'], fresh['conv1.latent'])
    kept = state['conv1.weight_mask']
    assert torch.equal(state['conv1.weight'][kept], file[1]['conv1.weight'][kept])
    names = 'network.conv1.latent, network.conv2.latent'
    assert f'took 10 of 10 tensors; not from there, but drawn anew: {names}; it is dense' in said


def test_a_head_of_another_size_is_drawn_anew_when_asked(tmp_path, file):
    path, dense = file
    dense = OrderedDict(dense) | {'linear.weight': torch.ones(9, 6), 'linear.bias': torch.ones(9)}
    torch.save(dense, path)
    hint = r'linear.bias is \(9,\) there and \(4,\) here. Give the config it had, or set new_head=True'
    with pytest.raises(UnusableCheckpoint, match=hint):
        start_of(tmp_path / 'refused', load_from=str(path), **ONCE)
    state, said, _ = start_of(tmp_path / 'run', load_from=str(path), new_head=True, **ONCE)
    fresh, _, _ = start_of(tmp_path / 'fresh', **ONCE)
    assert torch.equal(state['linear.weight'], fresh['linear.weight'])
    assert torch.equal(state['bn1.weight'], dense['bn1.weight'])
    assert 'took 8 of 10 tensors; not from there, but drawn anew: network.linear.weight, network.linear.bias;' in said
    cfg = small_config(tmp_path / 'test', load_from=str(path), new_head=True, **ONCE)
    with pytest.raises(UnusableCheckpoint, match='another model'):  # a test of it would be one of a random head
        RUNNERS.build(cfg).test()


@pytest.mark.parametrize('other', [TinyNet(5), nn.Sequential(nn.Conv2d(3, 6, 3))])
def test_another_network_has_no_new_head(other):
    model = ImageClassifier(TinyNet())
    state, *_ = as_start(model, other.state_dict(), new_head=True, dense=True)
    with pytest.raises(UnusableCheckpoint, match=r'another model.*Give the config it had$'):
        check_fits(model, state, 'file')


def test_versions_of_layers_are_kept_under_their_names():
    network = TinyNet()
    state, *_ = as_start(ImageClassifier(network), network.state_dict(), new_head=False, dense=True)
    assert state._metadata['network.bn1'] == network.state_dict()._metadata['bn1'] == {'version': 2}
    assert list(state) == [f'network.{name}' for name in network.state_dict()]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(new_head=True), r'new_head=True needs load_from'),
        (dict(new_head='fc'), r"new_head must be True or False, got 'fc'"),
    ],
)
def test_wrong_settings(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        check_config(small_config(tmp_path, **options))
