"""Networks come back bit for bit, or are refused with the reason."""

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from pab import compact
from pab.compact import CompactError, network
from pab.models import CIFARResNet, ConvNet, ImageClassifier, initialize_
from pab.pruners import SNIP, Mag, Rand, SynFlow, apply_masks_, get_masks
from pab.psg import PSGConfig, convert_psg_
from pab.registry import MODELS

from .networks import RESNET, SHAPE, TiedNet, change, same, trained

HERE = Path(__file__).parent


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'network.pab'


@pytest.mark.parametrize(
    'config, build, options',
    [
        (RESNET, lambda: trained(), {}),
        (RESNET, lambda: trained(pruner=Rand(density=0.5)), {}),
        (RESNET, lambda: trained(pruner=Mag(density=0.2, prunable=['Conv2d', 'Linear'])), {}),
        (RESNET, lambda: trained(pruner=Mag(density=1.0)), {}),
        (RESNET, lambda: change(initialize_(CIFARResNet(8, width=4), seed=7)), {}),
        (RESNET, lambda: trained(scheme='xavier_constant', pruner=Rand(density=0.5)), dict(scheme='xavier_constant')),
        (RESNET, lambda: convert_psg_(trained(), PSGConfig(input_bits=8, grad_bits=16)), {}),
        (dict(type='ConvNet', depth=2, image_size=8), lambda: trained(ConvNet(2, image_size=8), Mag(density=0.3)), {}),
        (dict(type='TiedNet'), lambda: trained(TiedNet(), Mag(density=0.3)), {}),
    ],
    ids=['synflow', 'rand', 'linear too', 'density 1', 'dense', 'constant', 'psg', 'biases', 'tied'],
)
def test_every_tensor_comes_back_bit_for_bit(config, build, options, file):
    model = build()
    compact.save(model, file, network=config, seed=7, **options)
    before = torch.random.get_rng_state()
    loaded = compact.load(file)
    assert torch.equal(before, torch.random.get_rng_state())
    assert same(model, loaded)
    assert type(loaded) is type(MODELS.build(config))
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(get_masks(model).values(), get_masks(loaded).values(), strict=True))
    images = torch.rand(2, *SHAPE)
    if not any('PSG' in type(module).__name__ for module in model.modules()):
        assert torch.equal(model(images), loaded(images))
    told = compact.info(file)
    assert told['mask']['names'] == [*get_masks(model)]
    assert told['counts']['kept'] == sum(int(mask.sum()) for mask in get_masks(model).values())
    assert sum(told['bytes'].values()) == 2 * told['bytes']['file'] == 2 * file.stat().st_size


def test_an_image_classifier_is_saved_as_its_network(file):
    plain = trained()
    compact.save(ImageClassifier(plain), file, network=RESNET, seed=7)
    assert same(plain, compact.load(file))


def test_a_signed_weight_takes_a_bit(file):
    model = trained(CIFARResNet(20))
    compact.save(model, file, network=dict(type='CIFARResNet', depth=20), seed=7)
    told, weights = compact.info(file), sum(m.numel() for m in get_masks(model).values())
    kept = sum(int(m.sum()) for m in get_masks(model).values())
    assert told['bytes']['signs'] == (kept + 7) // 8
    assert 8 * (told['bytes']['signs'] + told['bytes']['mask']) < 0.5 * weights
    floats = sum(t.numel() for n, t in model.state_dict().items() if not n.endswith('_mask'))
    assert file.stat().st_size < 4 * floats / 20


def test_the_documented_lines_work(tmp_path, monkeypatch, capsys):
    text = (HERE.parents[1] / 'docs' / 'files.md').read_text()
    monkeypatch.chdir(tmp_path)
    exec(text.split('```python\n')[1].split('```')[0], {})
    assert capsys.readouterr().out == "['cat', 'dog']\n"


def test_any_safetensors_reader_lists_the_file(file):
    model = trained()
    compact.save(model, file, network=RESNET, seed=7, classes=['cat', 'dog'], input_shape=SHAPE)
    with safe_open(file, 'np') as opened:
        recipe = json.loads(opened.metadata()['recipe'])
        assert opened.metadata()['version'] == '1'
        masks = {'mask/bits', 'mask/numbers', 'mask/table'}
        assert set(opened.keys()) == {'signs', *masks, 'values/float32', 'values/int64'}
        values = opened.get_tensor('values/float32')
    assert values[:4].tolist() == model.bn1.bias.tolist()  # the first name, and linear.weight the last
    assert np.array_equal(values[-160:].reshape(10, 16), model.linear.weight.detach().numpy())
    assert recipe['classes'] == ['cat', 'dog']
    assert recipe['network'] == RESNET


def test_float16_rounds_what_is_no_sign(file):
    model = trained()
    compact.save(model, file, network=RESNET, seed=7, values='float16')
    loaded = compact.load(file)
    for (name, a), b in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert b.dtype == a.dtype
        rounded = (
            a.half().float() if a.dtype == torch.float32 and 'conv' not in name and 'shortcut.0' not in name else a
        )
        assert torch.equal(rounded, b), name
    model.bn1.running_var[0] = 1e6
    with pytest.raises(CompactError, match=r'bn1.running_var holds numbers too large for float16'):
        compact.save(model, file, network=RESNET, seed=7, values='float16')


def drift(model):
    model.layer2[0].conv1.weight.data[0, 0] *= 1.0001


def revive(model):
    model.conv1.weight.data[~get_masks(model)['conv1.weight']] = 1e-30


def nothing(model):
    pass


@pytest.mark.parametrize(
    'damage, options, message',
    [
        (drift, {}, r'of \d+ weights left in layer2.0.conv1.weight, \d+ do not have the magnitude that scheme'),
        (revive, {}, r'pruned weights of conv1.weight are not 0'),
        (lambda model: model.conv1.double(), {}, r'conv1.weight is missing or differs'),
        (nothing, dict(seed=8), r"left in conv1.weight, \d+ do not have .*'kaiming_normal' and seed 8"),
        (nothing, dict(scheme='xavier_normal'), r"scheme 'xavier_normal'"),
        (nothing, dict(scheme='hope'), r'unknown scheme'),
        (nothing, dict(fan_share=0.5), r"left in conv1.weight, \d+ do not have .*'kaiming_normal', fan_share 0.5 and"),
        (nothing, dict(fan_share=0), r'fan_share must lie in \(0, 1\]'),
        (nothing, dict(seed=-1), r'seed must be an int >= 0'),
        (nothing, dict(signs=['Conv2d.weight', 'Linear.weight']), r'weights left in linear.weight'),
        (nothing, dict(network=dict(RESNET, width=5)), r'the config of the network builds another one'),
        (nothing, dict(network=dict(RESNET, depth=14)), r'layer1.1.bn1.bias is missing or differs'),
        (nothing, dict(network=dict(type='Wizard')), r"'Wizard' is no network of pab, which has CIFARResNet"),
        (nothing, dict(preprocessing=dict(f=torch.ones(1))), r'plain data only'),
        (nothing, dict(preprocessing=dict(mean=float('nan'))), r'plain data only'),
        (nothing, dict(seed=None), r'signs need the seed of the initial weights'),
        (nothing, dict(classes='ship'), r"classes must be a list of names, got 'ship'"),
        (nothing, dict(input_shape='abc'), r"input_shape should be \(C, H, W\) or empty, got 'abc'"),
        (nothing, dict(input_shape=8), r'input_shape should be \(C, H, W\) or empty, got 8'),
        (nothing, dict(input_shape=(3, 8.0, 8)), r'input_shape should be \(C, H, W\) or empty, got \[3, 8.0, 8\]'),
        (nothing, dict(scheme=3), r'recipe.init.scheme should be str, got 3'),
        (nothing, dict(values='int3'), r"values must be float32 or float16, got 'int3'"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(damage, options, message, file):
    model = trained()
    damage(model)
    with pytest.raises(ValueError, match=message):
        compact.save(model, file, **{**dict(network=RESNET, seed=7, input_shape=SHAPE), **options})
    assert not list(file.parent.iterdir())  # nothing is left behind


def test_a_machine_that_draws_other_magnitudes_says_so(file, monkeypatch):
    compact.save(trained(), file, network=RESNET, seed=7)
    monkeypatch.setattr(network, 'initialize_', lambda net, scheme, seed, _: initialize_(net, scheme, seed + 1))
    with pytest.raises(CompactError, match=r"'kaiming_normal' and seed 7 give other magnitudes here than"):
        compact.load(file)


@pytest.mark.parametrize('package', ['safetensors', 'constriction'])
def test_a_missing_package_is_named_with_the_way_to_it(package, monkeypatch):
    for name in [name for name in sys.modules if name.startswith('pab.compact')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'compact files need {package}: pip install safetensors constriction'):
        importlib.import_module('pab.compact')


def test_a_file_is_on_the_disk_whole_or_not_there(file, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, 'fsync', lambda number: (synced.append(os.fstat(number).st_size), fsync(number)))
    compact.save(trained(), file, network=RESNET, seed=7)
    assert file.stat().st_size in synced
    before = file.read_bytes()
    monkeypatch.setattr(Path, 'replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'disk full')))
    with pytest.raises(OSError, match='disk full'):
        compact.save(trained(seed=1), file, network=RESNET, seed=1)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_missing_file():
    with pytest.raises(FileNotFoundError, match=r'there is no compact file nowhere.pab'):
        compact.load('nowhere.pab')


def test_a_stored_file_is_read_for_ever():
    golden = HERE / 'golden' / 'signs.pab'
    loaded = compact.load(golden)
    config = dict(depth=8, width=2)
    model = trained(CIFARResNet(**config), SynFlow(density=0.5, rounds=2, prunable=['Conv2d', 'Linear']), seed=2026)
    assert same(model, loaded)
    told = compact.info(golden)
    assert told['network'] == dict(type='CIFARResNet', **config)
    assert told['preprocessing'] == dict(mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
    assert told['classes'] == [f'class {i}' for i in range(10)]


def test_pruned_once_by_data_and_signs_of_some_layers_only(file):
    """Parameters that the patterns leave out may have any value."""
    model = initialize_(CIFARResNet(8, width=4), seed=7)
    batch = torch.rand(4, *SHAPE), torch.arange(4)
    apply_masks_(model, SNIP(density=0.3).prune(model, [batch], seed=7))
    change(model)
    with torch.no_grad():
        model.layer2[0].shortcut[0].weight *= 1.5
    compact.save(model, file, network=RESNET, seed=7, signs=['Conv2d.weight', '!name:*shortcut*'])
    assert same(model, compact.load(file))
    assert not any('shortcut' in name for name in compact.info(file)['signs'])


def test_only_float32_is_pruned(file):
    model = trained().double()
    MODELS.register_module('DoubleNet', force=True, module=lambda: CIFARResNet(8, width=4).double())
    try:
        with pytest.raises(CompactError, match=r'conv1.weight is torch.float64, and a pruned weight must be float32'):
            compact.save(model, file, network=dict(type='DoubleNet'), seed=7)
    finally:
        MODELS.module_dict.pop('DoubleNet')


class Holder(nn.Module):
    def get_extra_state(self):
        return 'words'


def test_state_that_is_no_tensor_is_refused(file):
    model = trained()
    model.add_module('holder', Holder())
    with pytest.raises(CompactError, match='holder'):
        compact.save(model, file, network=RESNET, seed=7)
