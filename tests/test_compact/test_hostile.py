"""Files that are damaged, or made to do harm: an error, no crash, no large allocation, and nothing of theirs is run."""

import contextlib
import copy
import resource
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings, strategies as st
from safetensors.torch import save_file
from torch import nn

from pab import compact
from pab.compact import CompactError, container
from pab.compact.checkpoint import as_checkpoint
from pab.models import CIFARResNet
from pab.pruners import Mag
from pab.registry import MODELS

from .networks import RESNET, SHAPE, same, trained


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
@given(st.data())
def test_flipped_bits_and_moved_bytes_are_refused(good, data):
    file, content, model = good
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(['flip', 'byte', 'cut', 'insert', 'repeat']))
        if kind == 'flip':
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == 'byte':
            content[place] = data.draw(st.integers(0, 255))
        elif kind == 'cut':
            del content[place : place + data.draw(st.integers(1, 40))]
        elif kind == 'insert':
            content[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        else:
            content[place:place] = content[max(0, place - 30) : place]
        content = content or bytearray(1)
    bad = file.with_name('bad.pab')
    bad.write_bytes(content)
    assert refused_or_same(bad, model) or bytes(content) == good[1]


def test_each_single_flipped_bit_is_refused(good, tmp_path):
    _, data, model = good
    for place in range(3, 8 * len(data), 61):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        (tmp_path / 'flip.pab').write_bytes(changed)
        assert refused_or_same(tmp_path / 'flip.pab', model), place


odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70000),
    st.sampled_from([2**31, 2**63, 10**30, -(2**63), 1e300, 0.5]),
    st.sampled_from(['', 'range', 'lzma', 'none', 'derived', 'float16', 'os.system', 'torch.nn.Linear', 'a' * 300]),
    st.sampled_from([[], {}, [[]], [1, 2, 3], ['conv.0.weight'] * 2, {'type': 'CIFARResNet', 'depth': 8}]),
    st.sampled_from(
        [{'type': 'SynFlow', 'density': 0.5}, {'pruner': {'type': 'Mag', 'density': 1}, 'seed': 1, 'shots': 1}]
    ),
)


def places(value, path=()):
    """Every place of nested data: keys of dicts, positions in lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


@settings(quick, max_examples=1000)
@given(st.data())
def test_recipes_that_lie_are_refused(good, data):
    """Checksums are right here, so that what they protect is read; the network may load, but only as a network."""
    recipe, tensors = container.read(good[0])
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(list(places(recipe))))
        holder = recipe
        for key in path:
            holder = holder[key]
        kind = data.draw(st.sampled_from(['replace', 'remove', 'add']))
        if kind == 'replace':
            holder[last] = copy.deepcopy(data.draw(odd_values))
        elif kind == 'remove':
            del holder[last]
        elif isinstance(holder, dict):
            holder[data.draw(st.sampled_from(['type', '_scope_', 'custom_imports', 'derived', 'x', 'depth']))] = 3
        if not list(places(recipe)):
            break
    bad = good[0].with_name('lie.pab')
    container.write(bad, recipe, tensors)
    with contextlib.suppress(CompactError):
        assert isinstance(compact.load(bad), nn.Module)


@settings(quick, max_examples=300)
@given(st.data())
def test_tensors_that_lie_are_refused(good, data):
    recipe, tensors = container.read(good[0])
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    name = data.draw(st.sampled_from(sorted(tensors)))
    kind = data.draw(st.sampled_from(['shape', 'type', 'noise', 'none', 'short', 'name']))
    value = tensors.pop(name)
    if kind == 'shape':
        value = value.reshape(-1)[None]
    elif kind == 'type':
        value = value.to(data.draw(st.sampled_from([torch.int64, torch.float64, torch.bool, torch.bfloat16])))
    elif kind == 'noise':
        generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9999)))
        value = torch.randint(-(2**15), 2**15, value.shape, generator=generator).to(value.dtype)
    elif kind == 'short':
        value = value.reshape(-1)[: data.draw(st.integers(0, 3))]
    if kind != 'none':
        tensors[name if kind != 'name' else data.draw(st.sampled_from(['signs', 'mask/x', 'values/x', name]))] = value
    bad = good[0].with_name('tensor.pab')
    container.write(bad, recipe, tensors)
    try:
        loaded = compact.load(bad)
    except CompactError:
        return
    assert name.startswith(('signs', 'values/', 'mask/'))  # numbers that nothing contradicts, in a file that says so
    assert loaded.state_dict().keys() == good[2].state_dict().keys()


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(network=dict(type='torch.nn.Linear', in_features=1, out_features=1)), r"'torch.nn.Linear' is no"),
        (dict(network=dict(type='builtins.eval', source='1')), r"'builtins.eval' is no model"),
        (dict(network=dict(type='mmengine.BaseDataPreprocessor')), r'is no model of pab'),
        (dict(network=dict(type='BaseDataPreprocessor')), r'is no model of pab'),  # of mmengine's own registry
        (dict(network=dict(type=['CIFARResNet'])), r'is no model of pab'),
        (dict(network=dict(type='evil_module.Evil')), r"'evil_module.Evil' is no model of pab"),
        (dict(network=dict(type='OneConv', custom_imports=dict(imports=['evil_module']))), r'unexpected keyword'),
        (dict(network=dict(type='OneConv', extra=dict(type='evil_module.Evil'))), r"'evil_module.Evil' is no model"),
        (dict(network=dict(type='OneConv', extra=[dict(_scope_='evil_module')])), r"'_scope_' is no name of"),
        (dict(network=dict(type='ImageClassifier', network=RESNET, converter=dict(type='PSG'))), r"'PSG' is no model"),
        (dict(custom_imports=dict(imports=['evil_module'])), r'recipe should be'),
        (dict(network=dict(depth=8)), r'a model is described by a type'),
        (dict(network=dict(type='OneConv', width=10**9)), r'its tensors are not those'),
        (dict(network=dict(type='OneConv', width=2**62)), r'cannot be built with'),
        (dict(network=dict(type='OneConv', depth=10**12)), r'more than the \d+ parameters that the file accounts for'),
        (dict(network=dict(type='WideResNet', depth=6 * 10**11 + 4)), r'more than the \d+ parameters'),
        (dict(init=dict(scheme='standard', seed=7, fan_share=1, sha256='')), r'give other magnitudes here'),
        (dict(init=dict(scheme='os.system', seed=7, fan_share=1, sha256='')), r'unknown scheme'),
        (dict(init=dict(scheme='kaiming_normal', seed=7, fan_share=0.5, sha256='')), r'fan_share 0.5 and seed 7 give'),
        (dict(init=dict(scheme='kaiming_normal', seed=7, fan_share=10**400, sha256='')), r'fan_share must lie in'),
        (dict(init=dict(scheme='kaiming_normal', seed=7, fan_share=True, sha256='')), r'fan_share must lie in'),
        (dict(init=dict(scheme='standard', seed=7, fan_share='1', sha256='')), r'recipe.init.fan_share should be'),
        (dict(network=dict(type='CompactNetwork', file='good.pab')), r'a compact file names no other'),
        (dict(network=dict(type='OneConv', extra=[dict(type='CompactNetwork')])), r'a compact file names no other'),
        (dict(drawn=1), r'recipe.drawn should be'),
        (dict(drawn=True), r'give other magnitudes here'),  # the sum is another one then
        (dict(constant='conv.1.weight'), r'recipe.constant should be'),
        (dict(constant=[1]), r'recipe.constant\[0\] should be'),
        (dict(constant=[]), r'its tensors are not those'),
        (dict(constant=['conv.1.weight'] * 2), r"'conv.1.weight' should have signs and one magnitude"),
        (dict(constant=['conv.1.weight', 'conv.0.weight']), r"'conv.0.weight' should have signs and one magnitude"),
        (dict(constant=['conv.1.weight', 'norm.weight']), r'its tensors are not those'),
        (dict(constant=['conv.1.weight', 'nowhere']), r"'nowhere' should have signs and one magnitude"),
        (dict(input_shape=[1 << 40, 1, 1]), r'input_shape should be \(C, H, W\) with 1048576 numbers or fewer'),
        (dict(input_shape=[0, 1, 1]), r'input_shape should be'),
    ],
)  # fmt: skip
def test_a_recipe_builds_registered_networks_of_the_files_size_only(good, change, message, tmp_path, monkeypatch):
    (tmp_path / 'evil_module.py').write_text('import builtins\nbuiltins.harm_done = True\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe, tensors = container.read(good[0])
    container.write(tmp_path / 'evil.pab', {**recipe, **change}, tensors)
    start = time.perf_counter()
    with pytest.raises(CompactError, match=message):
        compact.load(tmp_path / 'evil.pab')
    assert time.perf_counter() - start < 5
    assert 'evil_module' not in sys.modules


@pytest.mark.parametrize('value', [[0.0], [-0.5], [float('inf')], [float('nan')], [0.5, 0.5], [], 0.5])
def test_a_magnitude_is_one_positive_number(good, value):
    recipe, tensors = container.read(good[0])
    for kind in (torch.float32, torch.float16):
        lie = {**tensors, 'values/conv.1.weight': torch.tensor(value, dtype=kind)}
        container.write(good[0].with_name('magnitude.pab'), recipe, lie)
        with pytest.raises(CompactError, match=r"'conv.1.weight' should (have signs and one|be a positive)"):
            compact.load(good[0].with_name('magnitude.pab'))


def test_files_of_version_1_say_nothing_that_version_2_added(good, tmp_path):
    recipe, tensors = container.read(Path(__file__).parent / 'golden' / 'v1_lzma.pab')
    assert (recipe['init']['fan_share'], recipe['drawn'], recipe['constant']) == (1.0, False, [])
    for lie in ({**recipe, 'init': [1]}, {**recipe, 'init': None}, {**recipe, 'more': 1}):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(container, 'VERSIONS', ('2', '1'))
            container.write(tmp_path / 'lie.pab', lie, tensors)
        with pytest.raises(CompactError, match=r'damaged or of another kind|recipe should be'):
            compact.load(tmp_path / 'lie.pab')


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(pruner=dict(type='os.system', command='true')), r"'os.system' is no pruner of pab"),
        (dict(pruner=dict(type='SynFlow', density=0.3, rounds=10**9)), r'takes 1 to 1000 rounds, got 1000000000'),
        (dict(pruner=dict(type='SynFlow', density=0.3, sneaky=1)), r'SynFlow cannot be built with'),
        (dict(shots=10**9), r'takes 1 to 100 shots'),
        (dict(shots=-1), r'takes 1 to 100 shots'),
        (dict(seed='7'), r'mask.derived.seed should be'),
        (dict(more=1), r'mask.derived should be'),
    ],
)
def test_a_derived_mask_runs_registered_pruners_for_a_while_only(change, message, tmp_path):
    file = tmp_path / 'derived.pab'
    derive = dict(pruner=dict(type='SynFlow', density=0.3, rounds=5), seed=7)
    compact.save(trained(), file, network=RESNET, seed=7, input_shape=SHAPE, derive=derive)
    recipe, tensors = container.read(file)
    recipe['mask']['derived'].update(change)
    container.write(file, recipe, tensors)
    with pytest.raises(CompactError, match=message):
        compact.load(file)
    recipe['mask']['derived'] = dict(derive, shots=1)
    recipe['input_shape'] = [3, 1 << 20, 1 << 20]
    container.write(file, recipe, tensors)
    with pytest.raises(CompactError, match=r'input_shape should be \(C, H, W\) with 1048576 numbers or fewer'):
        compact.load(file)


def test_a_small_file_cannot_ask_for_much_memory(tmp_path):
    """A hundred million weights, all of them pruned but one, in a file of some kilobytes."""
    file, config = tmp_path / 'large.pab', dict(type='CIFARResNet', depth=8)
    compact.save(trained(CIFARResNet(8, width=1)), file, network=dict(config, width=1), seed=7)
    recipe, tensors = container.read(file)
    recipe['network']['width'] = 1000
    recipe['counts']['numbers'] = sum(t.numel() for t in CIFARResNet(8, width=1).state_dict().values())
    container.write(file, recipe, tensors)
    with pytest.raises(CompactError, match='its tensors are not those of its network'):
        compact.load(file)
    with torch.device('meta'):
        recipe['counts']['numbers'] = sum(t.numel() for t in CIFARResNet(8, width=1000).state_dict().values())
    container.write(file, recipe, tensors)
    with pytest.raises(CompactError, match='its tensors are not those of its network'):
        compact.load(file)


def test_other_formats_and_versions_are_named(good, tmp_path):
    file = tmp_path / 'x.pab'
    save_file({'a': torch.ones(2)}, file)
    with pytest.raises(CompactError, match=r"does not say format 'pab.compact'"):
        compact.load(file)
    save_file({'a': torch.ones(2)}, file, {'format': 'pab.compact', 'version': '3'})
    with pytest.raises(CompactError, match=r"has version '3' of the format, and this pab reads 1 and 2"):
        compact.load(file)
    torch.save({'state_dict': {}}, file)
    with pytest.raises(CompactError, match='is damaged or of another kind'):
        compact.load(file)
    for text in ('{"a":' * 100_000, '[' * 100_000, '1', '[1]', '"' + 'x' * 9, '1' * 5000):
        metadata = {'format': 'pab.compact', 'version': '1', 'recipe': text, 'sha256': text}
        save_file({'signs': torch.ones(2, dtype=torch.uint8)}, file, metadata)
        with pytest.raises(CompactError):
            compact.load(file)
    for length in (0, 1 << 20, 1 << 40, (1 << 63) - 1, (1 << 64) - 1):
        file.write_bytes(length.to_bytes(8, 'little') + good[1][8:])
        with pytest.raises(CompactError, match='is damaged'):
            compact.load(file)
    for old, new in ((b'"shape":[4]', b'"shape":[9999999999999]'), (b'"data_offsets":[0,', b'"data_offsets":[9,')):
        assert old in good[1]
        file.write_bytes(good[1].replace(old, new))
        with pytest.raises(CompactError, match='is damaged'):
            compact.load(file)
    with pytest.raises(FileNotFoundError):
        compact.load(tmp_path)


@pytest.mark.parametrize('coder', ['range', 'lzma'])
@settings(quick, max_examples=100)
@given(content=st.binary(max_size=40))
@example(content=b'\xff' * 16)
@example(content=b'')
def test_coded_bytes_of_nobody(good, coder, content):
    """Bytes that no coder wrote, with right checksums around them."""
    recipe, tensors = container.read(good[0])
    recipe['mask']['coding'] = coder
    container.write(
        good[0].with_name('coded.pab'), recipe, {**tensors, 'mask/bits': torch.tensor(list(content), dtype=torch.uint8)}
    )
    refused_or_same(good[0].with_name('coded.pab'), good[2])


def test_an_archive_of_zeros_unpacks_no_further_than_its_mask(good):
    import lzma

    recipe, tensors = container.read(good[0])
    recipe['mask']['coding'] = 'lzma'
    bomb = lzma.compress(bytes(50_000_000), preset=1)
    bits = torch.frombuffer(bytearray(bomb), dtype=torch.uint8)
    container.write(good[0].with_name('bomb.pab'), recipe, {**tensors, 'mask/bits': bits})
    with pytest.raises(CompactError, match='mask'):
        compact.load(good[0].with_name('bomb.pab'))


def test_a_wrong_record_of_the_pruning_is_named(good, tmp_path):
    recipe, tensors = container.read(good[0])
    container.write(tmp_path / 'record.pab', {**recipe, 'pruning': {'x': [1]}}, tensors)
    with pytest.raises(CompactError, match=r'record.pab: pruning should be .*shots_done'):
        as_checkpoint(tmp_path / 'record.pab')
