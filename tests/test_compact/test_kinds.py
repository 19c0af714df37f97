"""Runs of every kind: packed, loaded, evaluated, and as small as they should be."""

import re

import pytest
import torch
from torch import nn

from pab import compact
from pab.compact.checkpoint import as_checkpoint, evaluate_file_
from pab.latent import merge_latents_
from pab.pruners import get_masks
from pab.run import PabRunner
from pab.state_dicts import PRUNING_RECORD

from .kinds import CONSTANT, KINDS, SEED, kind
from .networks import same


@pytest.mark.parametrize('name', KINDS)
def test_a_run_comes_back_as_its_merged_network_and_takes_the_bits_it_should(name, tmp_path):
    cfg, checkpoint, model = kind(name, tmp_path)
    images, file = torch.rand(4, 1, 8, 8), tmp_path / 'run.pab'
    before = [tensor.clone() for tensor in model.state_dict().values()]
    with torch.no_grad():
        expected = model(images)
    random_state = torch.random.get_rng_state()
    packed = compact.pack(cfg, checkpoint, file)
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert torch.equal(random_state, torch.random.get_rng_state())
    loaded = compact.load(file)
    merge_latents_(model.network)
    assert same(loaded, model.network)
    assert same(loaded, packed)
    assert type(loaded.conv1) is nn.Conv2d
    with torch.no_grad():
        assert torch.equal(loaded(images), expected)

    told, how = compact.info(file), KINDS[name][1]
    convolutions = [n for n, layer in loaded.named_modules() if isinstance(layer, nn.Conv2d)]
    kept = {n: int(loaded.get_submodule(n).weight.count_nonzero()) for n in convolutions}
    assert told['signs'] == ([] if how == 'values' else [f'{n}.weight' for n in convolutions])
    assert told['drawn'] == (how != 'signs')
    assert told['constant'] == (told['signs'] if name in CONSTANT else [])
    assert told['bytes']['signs'] == ((sum(kept.values()) + 7) // 8 if how == 'signs' else 0)
    own_masks = {f'{n}_mask' for n in get_masks(loaded)}
    others = {n: t for n, t in loaded.state_dict().items() if n not in own_masks | {f'{c}.weight' for c in kept}}
    numbers = sum(kept.values()) if how == 'values' else len(told['constant'])
    assert told['bytes']['values'] == 4 * numbers + sum(t.nbytes for t in others.values())
    assert told['pruning'] is None  # the checkpoint's record is not one of PruneHook
    init = cfg.model.init and {'seed': SEED, 'fan_share': cfg.model.init.get('fan_share', 1.0)}
    assert (told['init'] and {key: told['init'][key] for key in init}) == init


@pytest.mark.parametrize('name', ['sgd, pruned', 'bop'])
def test_weights_that_began_from_a_file_are_values_or_refused(name, tmp_path):
    """The file itself may be gone: the checkpoint has what came of it."""
    cfg, checkpoint, model = kind(name, tmp_path)
    weight = model.network.conv1.weight
    weight.data.mul_(torch.linspace(1, 2, weight.numel()).view_as(weight))  # no magnitude of a seed
    cfg.model.weights = str(tmp_path / 'gone.pth')
    if name == 'bop':
        with pytest.raises(compact.CompactError, match=r'conv1\.weight, .* loaded from elsewhere'):
            compact.pack(cfg, checkpoint, tmp_path / 'run.pab')
        return
    compact.pack(cfg, checkpoint, tmp_path / 'run.pab')
    assert same(compact.load(tmp_path / 'run.pab'), model.network)
    assert compact.info(tmp_path / 'run.pab')['signs'] == []


def test_half_numbers_leave_a_constant_magnitude_as_it_is(tmp_path):
    cfg, checkpoint, model = kind('biprop', tmp_path)
    compact.pack(cfg, checkpoint, tmp_path / 'run.pab', values='float16')
    merge_latents_(model.network)
    assert torch.equal(compact.load(tmp_path / 'run.pab').conv1.weight, model.network.conv1.weight)


def test_a_seed_that_is_wanted_and_not_known_is_refused(tmp_path):
    cfg, checkpoint, _ = kind('flipping', tmp_path)
    cfg.model.init = None
    with pytest.raises(ValueError, match='init=None leaves the initial weights to the network'):
        compact.pack(cfg, checkpoint, tmp_path / 'run.pab')


def test_a_checkpoint_of_another_kind_is_refused(tmp_path):
    cfg = kind('flipping', tmp_path)[0]
    with pytest.raises(ValueError, match=r'not of the model of this config: (?s:.*)conv1.latent'):
        compact.pack(cfg, kind('sgd', tmp_path)[1], tmp_path / 'run.pab')


def test_sgd_on_weights_of_a_sign_optimizer_is_refused(tmp_path):
    cfg, checkpoint, _ = kind('bop', tmp_path)
    with pytest.raises(compact.CompactError, match=r'weights left in conv1\.weight'):
        compact.pack(cfg, kind('sgd, pruned', tmp_path)[1], tmp_path / 'run.pab')
    cfg.optim_wrapper.optimizers.signs.owns = ['Conv2d.weight', '!name:network.conv1.*']
    compact.pack(cfg, checkpoint, tmp_path / 'run.pab')
    assert 'conv1.weight' not in compact.info(tmp_path / 'run.pab')['signs']


@pytest.mark.parametrize(
    'name',
    [
        *('bop', 'flipping, pruned, psg', 'edge-popup'),  # a sign optimizer, latents and a mask, used weights
        *(pytest.param(name, marks=pytest.mark.slow) for name in ('sgd, pruned', 'ternary', 'biprop')),
    ],
)
def test_the_tools_pack_and_evaluate_it(name, tmp_path, tool):
    cfg, checkpoint, _ = kind(name, tmp_path)
    cfg.test_dataloader.dataset.num_samples = 297
    if KINDS[name][2].get('prune'):  # puts masks on the network
        cfg.default_hooks.prune = dict(type='PruneHook', pruner=dict(type='Mag', density=0.4))
    if name == 'sgd, pruned':
        cfg.default_hooks.prune.update(type='RewindHook', cycles=1)
    cfg.dump(tmp_path / 'config.py')
    torch.save({**checkpoint, PRUNING_RECORD: None}, tmp_path / 'run.pth')
    run = tmp_path / 'config.py', tmp_path / 'run.pth'
    printed, status = tool('compact.py', 'pack', *run, tmp_path / 'run.pab')
    assert status == 0
    assert ('of 9 tensors' if KINDS[name][1] != 'values' else '0 bytes, of 0 tensors') in printed
    accuracies = []
    for file in ('run.pth', 'run.pab'):
        printed, status = tool('test.py', run[0], tmp_path / file, '--work-dir', tmp_path / 'test')
        assert status == 0
        accuracies += re.findall(r'accuracy/top1: ([\d.]+)', printed)
    assert len(accuracies) == 2
    assert accuracies[0] == accuracies[1]


def test_a_file_is_evaluated_as_it_is_under_the_config_of_another_run(tmp_path):
    """Here under one whose converter would set BatchNorm to 1 and 0."""
    cfg, checkpoint, _ = kind('bop', tmp_path)
    compact.pack(cfg, checkpoint, tmp_path / 'run.pab')
    other = kind('edge-popup', tmp_path)[0]
    evaluate_file_(other, tmp_path / 'run.pab')
    runner = PabRunner.from_cfg(other)
    runner.test()
    frozen = {layer.weight.requires_grad for layer in runner.model.modules() if isinstance(layer, nn.BatchNorm2d)}
    assert frozen == {False}
    assert same(runner.model.network, compact.load(tmp_path / 'run.pab'))


def test_a_file_is_evaluated_on_its_own_classes_and_images(tmp_path):
    cfg, checkpoint, _ = kind('sgd', tmp_path)
    names = [f'class {i}' for i in range(10)]
    cfg.model.input_shape = (3, 8, 8)
    checkpoint['meta'] = {'dataset_meta': {'classes': tuple(names)}}
    compact.pack(cfg, checkpoint, tmp_path / 'run.pab')
    assert as_checkpoint(tmp_path / 'run.pab')['meta']['dataset_meta'] == {'classes': tuple(names)}
    cfg.model.input_shape = (1, 8, 8)
    evaluate_file_(cfg, tmp_path / 'run.pab')
    assert tuple(cfg.model.input_shape) == (3, 8, 8)
    with pytest.raises(ValueError, match=r'test_dataloader: has classes that the checkpoint does not have'):
        PabRunner.from_cfg(cfg).test()


def test_a_file_that_is_not_there_is_named_in_one_line(tmp_path, tool):
    kind('sgd', tmp_path)[0].dump(tmp_path / 'config.py')
    _, told = tool('test.py', tmp_path / 'config.py', tmp_path / 'no.pab')
    assert told == f'error: there is no compact file {tmp_path / "no.pab"}'
