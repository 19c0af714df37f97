"""Files that are damaged, or made to do harm: an error, no crash, no large allocation, and nothing of theirs is run."""

import contextlib
import copy
import os
import resource
import sys
import time

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings, strategies as st
from safetensors.torch import save_file
from torch import nn

from pab import compact
from pab.compact import CompactError, container
from pab.compact.checkpoint import as_checkpoint
from pab.pruners import Mag
from pab.registry import MODELS

from .networks import RESNET, same, trained


@MODELS.register_module()
class OneConv(nn.Module):
    """The least network: one convolution, biases, BatchNorm."""

    def __init__(self, width=4, depth=1, extra=None):
        super().__init__()
        self.conv = nn.Sequential(*(nn.Conv2d(3, width, 3) for _ in range(depth)))
        self.norm = nn.BatchNorm2d(width)


@pytest.fixture(scope='module')
def good(tmp_path_factory):
    """(file, its bytes, network) of a network of 240 numbers, of which one tensor has one magnitude."""
    file, model = tmp_path_factory.mktemp('good') / 'good.pab', trained(OneConv(depth=2), Mag(density=0.5))
    model.conv[1].weight.data = model.conv[1].weight.data.sign() / 4
    pruning = dict(pruner='Mag', density=0.5)
    config = dict(type='OneConv', width=4, depth=2)
    compact.save(model, file, network=config, seed=7, classes=['a', 'b'], pruning=pruning)
    return file, file.read_bytes(), model


@pytest.fixture(autouse=True)
def _no_large_allocation():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.fixture(scope='module', autouse=True)
def _files_are_not_forced_to_the_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'fsync', lambda _: None)  # thousands of them take long
        yield


@pytest.fixture
def lie(good):
    """A function: what replaces parts of the recipe, tensors -> a file with right checksums, by which both are read."""

    def write(changes, **tensors):
        recipe, own = container.read(good[0])
        file = good[0].with_name('lie.pab')
        tensors = {name: tensor for name, tensor in {**own, **tensors}.items() if tensor is not None}
        container.write(file, {**recipe, **changes}, tensors)
        return file

    return write


quick = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def refused_or_same(file, model):
    """Load; an error must be the documented one, and what loads must be the network that was saved."""
    try:
        loaded = compact.load(file)
    except CompactError:
        return True
    assert same(loaded, model)
    return False


def test_every_shorter_file_is_refused(good, tmp_path):
    _, data, model = good
    for length in range(0, len(data), 7):
        (tmp_path / 'cut.pab').write_bytes(data[:length])
        assert refused_or_same(tmp_path / 'cut.pab', model)
    (tmp_path / 'cut.pab').write_bytes(data + b'\0')
    assert refused_or_same(tmp_path / 'cut.pab', model)


@settings(quick, max_examples=1000)
@given(place=st.floats(0, 1, exclude_max=True), cut=st.integers(0, 40), inserted=st.binary(max_size=9))
def test_bytes_that_were_replaced_cut_out_or_inserted_are_refused(good, place, cut, inserted):
    file, content, model = good
    place = int(place * len(content))
    changed = content[:place] + inserted + content[place + cut :]
    bad = file.with_name('bad.pab')
    bad.write_bytes(changed)
    assert refused_or_same(bad, model) or changed == content


def test_each_single_flipped_bit_is_refused(good, tmp_path):
    _, data, model = good
    for place in range(3, 8 * len(data), 61):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        (tmp_path / 'flip.pab').write_bytes(changed)
        assert refused_or_same(tmp_path / 'flip.pab', model), place


ODD_VALUES = [
    None,
    True,
    -3,
    0,
    70000,
    2**31,
    2**63,
    10**30,
    -(2**63),
    1e300,
    0.5,
    '',
    'float16',
    'os.system',
    'a' * 300,
]
ODD_VALUES += [[], {}, [[]], [1, 2, 3], ['conv.0.weight'] * 2, {'type': 'CIFARResNet', 'depth': 8}]


def holders(value):
    """Every dict and list in nested data."""
    if isinstance(value, dict | list):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from holders(item)


@settings(quick, max_examples=300)
@given(st.data())
def test_a_recipe_of_odd_values_builds_a_network_or_nothing(good, data):
    recipe, tensors = container.read(good[0])
    for _ in range(data.draw(st.integers(1, 3))):
        holder = data.draw(st.sampled_from([part for part in holders(recipe) if part]))
        key = data.draw(st.sampled_from([*holder] if isinstance(holder, dict) else range(len(holder))))
        change = data.draw(st.sampled_from(['replace', 'remove', 'add']))
        if change == 'replace':
            holder[key] = copy.deepcopy(data.draw(st.sampled_from(ODD_VALUES)))
        elif change == 'remove':
            del holder[key]
        elif isinstance(holder, dict):
            holder[data.draw(st.sampled_from(['type', '_scope_', 'custom_imports', 'x', 'depth']))] = 3
        if not recipe:
            break
    bad = good[0].with_name('odd.pab')
    container.write(bad, recipe, tensors)
    with contextlib.suppress(CompactError):
        assert isinstance(compact.load(bad), nn.Module)


@pytest.mark.slow
@settings(quick, max_examples=100)
@given(st.data())
def test_odd_tensors_give_a_network_of_the_same_names_or_nothing(good, data):
    recipe, tensors = container.read(good[0])
    name = data.draw(st.sampled_from(sorted(tensors)))
    value = tensors.pop(name).clone()
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9999)))
    odd = [
        (name, value.reshape(-1)[None]),
        (name, value.reshape(-1)[: data.draw(st.integers(0, 3))]),
        (name, torch.randint(-(2**15), 2**15, value.shape, generator=generator).to(value.dtype)),
        *((name, value.to(kind)) for kind in (torch.int64, torch.float64, torch.bool, torch.bfloat16)),
        *((other, value) for other in ('signs', 'mask/x', 'values/x')),
        (None, value),
    ]
    name, value = data.draw(st.sampled_from(odd))
    bad = good[0].with_name('tensor.pab')
    container.write(bad, recipe, tensors if name is None else {**tensors, name: value})
    with contextlib.suppress(CompactError):
        assert compact.load(bad).state_dict().keys() == good[2].state_dict().keys()


def network(name='OneConv', **arguments):
    return dict(network=dict(type=name, **arguments))


def init(seed=7, scheme='kaiming_normal', fan_share=1):
    return dict(init=dict(scheme=scheme, seed=seed, fan_share=fan_share, sha256=''))


NAMES = [  # of what is no network, or not registered here
    (network('torch.nn.Linear', in_features=1, out_features=1), r"'torch.nn.Linear' is no network of pab, which has"),
    (network('builtins.eval', source='1'), r"'builtins.eval' is no network"),
    (network('mmengine.BaseDataPreprocessor'), r'is no network of pab'),
    (network('BaseDataPreprocessor'), r'is no network of pab'),  # of mmengine's own registry
    (network(['CIFARResNet']), r'is no network of pab'),
    (network('evil_module.Evil'), r"'evil_module.Evil' is no network of pab"),
    (network(custom_imports=dict(imports=['evil_module'])), r'unexpected keyword'),
    (network(extra=dict(type='evil_module.Evil')), r"'evil_module.Evil' is no network"),
    (network(extra=[dict(_scope_='evil_module')]), r"'_scope_' is no name of"),
    (network('ImageClassifier', network=RESNET, converter=dict(type='PSG')), r"'PSG' is no network"),
    (network('CompactNetwork', file='good.pab'), r'a data file names no other'),
    (network(extra=[dict(type='CompactNetwork')]), r'a data file names no other'),
    (dict(network=dict(depth=8)), r'a network is described by a type'),
    (dict(custom_imports=dict(imports=['evil_module'])), r'recipe should be'),
]
SIZES = [  # that take more memory than the file may ask for
    (network(width=10**9), r'more than the 400,000,000 bytes'),
    (network(width=2**62), r'cannot be built with'),
    (network(depth=10**12), r'more than the 400,000,000 bytes'),
    (network('WideResNet', depth=6 * 10**11 + 4), r'more than the 400,000,000 bytes'),
    (network('CIFARResNet', depth=8, width=1000), r'more than the 400,000,000 bytes'),
    (network(depth=3), r'its tensors are not those'),
    (network(width=5, depth=2), r'its tensors are not those .*: 301 numbers, and 241 where'),
    (dict(input_shape=[0, 1, 1]), r'input_shape should be'),
    (dict(input_shape=[1, 1]), r'input_shape should be'),
]
DRAWS = [
    (init(scheme='standard'), r'give other magnitudes here'),
    (init(scheme='os.system'), r'unknown scheme'),
    (init(fan_share=0.5), r'fan_share 0.5 and seed 7 give'),
    (init(fan_share=10**400), r'fan_share must lie in'),
    (init(fan_share=True), r'fan_share must lie in'),
    (init(fan_share='1'), r'recipe.init.fan_share should be'),
    (init(seed='7'), r'recipe.init.seed should be'),
    (dict(drawn=1), r'recipe.drawn should be'),
    (dict(drawn=True), r'give other magnitudes here'),  # the sum is another one then
    (dict(constant='conv.1.weight'), r'recipe.constant should be'),
    (dict(constant=[1]), r'recipe.constant\[0\] should be'),
    (dict(constant=[]), r'takes values/float32 float32 24, .* and it has values/float32 float32 25, '),
    (dict(constant=['conv.1.weight'] * 2), r"'conv.1.weight' is named twice"),
    (dict(constant=['conv.1.weight', 'conv.0.weight']), r'takes values/float32 float32 26, .* float32 25, '),
    (dict(constant=['conv.1.weight', 'norm.weight']), r"'norm.weight' .* has one magnitude without signs"),
    (dict(constant=['conv.1.weight', 'nowhere']), r"'nowhere' .* has one magnitude without signs"),
    (dict(signs=['conv.0.weight', 'conv.1.weight', 'norm.running_var']), r"'norm.running_var' .* no float32 parameter"),
    (dict(signs=['conv.0.weight', 'conv.1.weight', 'nowhere']), r"'nowhere' .* no float32 parameter"),
    (dict(signs=['conv.1.weight'] * 2), r"'conv.1.weight' is named twice"),
    (dict(signs=['conv.1.weight'], drawn=True), r'give other magnitudes here'),
    (dict(layout=''), r'its tensors are not those .*: 241 numbers, and 241 where it was written'),
    (dict(values='float16'), r'takes values/float16 float16 24, values/float32 float32 1, values/int64 int64 1, and'),
    (dict(counts=dict(numbers=1, prunable=1, kept=1)), r'its mask or its counts'),
]


def refused_quickly(file, message):
    start = time.process_time()
    with pytest.raises(CompactError, match=message):
        compact.load(file)
    assert time.process_time() - start < 5


@pytest.mark.parametrize('change, message', NAMES)
def test_a_name_imports_nothing(lie, change, message, tmp_path, monkeypatch):
    (tmp_path / 'evil_module.py').write_text('')
    monkeypatch.syspath_prepend(str(tmp_path))
    refused_quickly(lie(change), message)
    assert 'evil_module' not in sys.modules


@pytest.mark.parametrize('change, message', SIZES)
def test_a_small_file_asks_for_no_large_network(lie, change, message):
    refused_quickly(lie(change), message)


@pytest.mark.parametrize('change, message', DRAWS)
def test_a_recipe_that_gives_other_weights_is_refused(lie, change, message):
    refused_quickly(lie(change), message)


@pytest.mark.parametrize('value', [0.0, -0.5, float('inf'), float('nan')])
def test_a_magnitude_is_a_positive_number(good, lie, value):
    values = container.read(good[0])[1]['values/float32']
    assert values[8] == 0.25  # after the biases of both convolutions
    values[8] = value
    refused_quickly(lie({}, **{'values/float32': values}), r"magnitude of 'conv.1.weight' should be a positive number")


@pytest.mark.parametrize(
    'name, change, found',
    [
        ('float32', lambda value: value[:-1], 'values/float32 float32 24, values/int64 int64 1'),
        ('float32', lambda value: torch.cat([value, value]), 'values/float32 float32 50, values/int64 int64 1'),
        ('float32', lambda value: value[None], 'values/float32 float32 1x25, values/int64 int64 1'),
        ('float32', lambda value: value.half(), 'values/float32 float16 25, values/int64 int64 1'),
        ('float32', lambda value: None, 'values/int64 int64 1'),
        ('int64', lambda value: value[0], 'values/float32 float32 25, values/int64 int64 '),
        ('int64', lambda value: value.int(), 'values/float32 float32 25, values/int64 int32 1'),
        ('float64', lambda value: torch.ones(0), 'values/float32 float32 25, values/float64 float32 0, values/int64 '),
        (
            'bn.weight',
            lambda value: torch.ones(4),
            'values/bn.weight float32 4, values/float32 float32 25, ',
        ),
    ],
)
def test_values_that_do_not_fit_the_network_are_told_beside_what_it_takes(good, lie, name, change, found):
    file = lie({}, **{f'values/{name}': change(container.read(good[0])[1].get(f'values/{name}'))})
    refused_quickly(file, f'its network takes values/float32 float32 25, values/int64 int64 1, and it has {found}')


def test_another_format_and_another_version_are_named(tmp_path):
    file = tmp_path / 'x.pab'
    save_file({'a': torch.ones(2)}, file)
    refused_quickly(file, r"does not say format 'pab.compact'")
    save_file({'a': torch.ones(2)}, file, {'format': 'pab.compact', 'version': '3'})
    refused_quickly(file, r"has version '3' of the format, and this pab reads '1'")


def test_a_checkpoint_and_a_folder_are_no_compact_files(tmp_path):
    torch.save({'state_dict': {}}, tmp_path / 'x.pab')
    refused_quickly(tmp_path / 'x.pab', 'is damaged or of another kind')
    with pytest.raises(FileNotFoundError):
        compact.load(tmp_path)


@pytest.mark.parametrize('text', ['{"a":' * 100_000, '[' * 100_000, '1', '[1]', '"' + 'x' * 9, '1' * 5000, 'null'])
def test_a_header_that_is_no_recipe_is_refused(text, tmp_path):
    metadata = {'format': 'pab.compact', 'version': '1', 'recipe': text, 'sha256': text}
    save_file({'signs': torch.ones(2, dtype=torch.uint8)}, tmp_path / 'x.pab', metadata)
    refused_quickly(tmp_path / 'x.pab', 'is damaged')


@pytest.mark.parametrize('length', [0, 1 << 20, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_a_wrong_length_of_the_header_is_refused(good, length, tmp_path):
    (tmp_path / 'x.pab').write_bytes(length.to_bytes(8, 'little') + good[1][8:])
    refused_quickly(tmp_path / 'x.pab', 'is damaged')


@pytest.mark.parametrize(
    'old, new', [(b'"shape":[25]', b'"shape":[9999999999999]'), (b'"data_offsets":[0,', b'"data_offsets":[9,')]
)
def test_a_wrong_place_of_a_tensor_is_refused(good, old, new, tmp_path):
    assert old in good[1]
    (tmp_path / 'x.pab').write_bytes(good[1].replace(old, new))
    refused_quickly(tmp_path / 'x.pab', 'is damaged')


@pytest.mark.slow
@settings(quick, max_examples=100)
@given(content=st.binary(max_size=40))
@example(content=b'\xff' * 16)
@example(content=b'')
def test_a_mask_that_no_coder_wrote_is_refused(good, lie, content):
    refused_or_same(lie({}, **{'mask/bits': torch.tensor(list(content), dtype=torch.uint8)}), good[2])


def test_a_wrong_record_of_the_pruning_is_named(lie):
    with pytest.raises(CompactError, match=r'lie.pab: pruning should be .*shots_done'):
        as_checkpoint(lie({'pruning': {'x': [1]}}))
