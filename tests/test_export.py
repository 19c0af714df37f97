"""Exported files, run by onnxruntime and by torch.export, against the model they come from."""

import copy
import importlib.util
import io
import json
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.torch_version import TorchVersion

from pab.export import _check, check_target, export, plain_network
from pab.latent import AffineFreeBatchNorm, Biprop, EdgePopup, LatentSigns
from pab.models import (
    CIFARVGG,
    CIFARResNet,
    ConvNet,
    ImageClassifier,
    TorchvisionModel,
    WideResNet,
    initialize_,
)
from pab.pruners import get_masks
from pab.psg import PSG, PSGConfig, convert_psg_
from tests.exported import needs_onnx, run_file, stored, tensors_of, trained, used

pytestmark = needs_onnx

ROOT = Path(__file__).parents[1]
IMAGES = torch.randn(100, 3, 16, 16, generator=torch.Generator().manual_seed(1))


CASES = [  # network, BatchNorm layers and how many are left after folding, counted by hand
    (lambda: CIFARResNet(8, width=4), 9, 0),
    # of 7, bn2 of the three blocks follows a convolution; bn1 of the first block shares its input with the identity
    (lambda: WideResNet(10, 1), 7, 4),
    # here a projection takes the place of the identity, and bn1 of the first block is the only reader of conv1
    (lambda: WideResNet(10, 2), 7, 3),
    (lambda: CIFARVGG(11), 8, 0),
    (lambda: TorchvisionModel('resnet18', num_classes=10), 20, 0),
]


@pytest.mark.parametrize('network, batch_norms, left', CASES)
def test_folding_keeps_the_outputs_and_the_model(network, batch_norms, left):
    model = trained(network()).eval()
    before = copy.deepcopy(model.state_dict())
    plain, folded = plain_network(model), plain_network(model, fold_batch_norm=True)
    with torch.no_grad():
        expected = model(IMAGES[:10])
        assert torch.equal(plain(IMAGES[:10]), expected)
        torch.testing.assert_close(folded(IMAGES[:10]), expected, atol=1e-4, rtol=0)
    count = [sum(isinstance(m, nn.BatchNorm2d) for m in n.modules()) for n in (plain, folded)]
    assert count == [batch_norms, left]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert get_masks(model)


@pytest.mark.parametrize('fold', [pytest.param(False, marks=pytest.mark.slow), True])
def test_onnx(tmp_path, fold):
    model, file = ImageClassifier(trained(CIFARResNet(8, width=4)), init=None), tmp_path / 'folder' / 'net.onnx'
    metadata = {'classes': ['a', 'b'], 'note': 'text'}
    result = export(model, file, IMAGES, 'onnx', fold_batch_norm=fold, metadata=metadata)
    assert result.batch_norms == (9, 0 if fold else 9)
    assert result.size == file.stat().st_size
    model.eval()
    for size in (1, 3, 100):
        with torch.no_grad():
            expected = model(IMAGES[:size])
        got = run_file(file, IMAGES[:size])
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
        assert torch.equal(got.argmax(1), expected.argmax(1))
    proto = stored(file)
    nodes = {'Conv': 9, 'Relu': 7, 'Add': 3, 'ReduceMean': 1, 'Gemm': 1} | ({} if fold else {'BatchNormalization': 9})
    assert Counter(node.op_type for node in proto.graph.node) == nodes
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == 'batch'
    assert {item.key: item.value for item in proto.metadata_props} == {'classes': '["a", "b"]', 'note': 'text'}
    tensors = tensors_of(proto)
    assert not any(tensor.dtype == bool for tensor in tensors.values())
    weight = torch.from_numpy(tensors['layer1.0.conv1.weight'].copy())
    assert torch.equal(weight != 0, get_masks(model.network)['layer1.0.conv1.weight'])
    if not fold:
        assert torch.equal(weight, model.network.layer1[0].conv1.weight)


def test_torch_program(tmp_path):
    """Ordinary operations only, without masks; a batch of any size."""
    model, file = trained(ConvNet(2, image_size=16)), tmp_path / 'net.pt2'
    result = export(model.train(), file, IMAGES, 'torch', metadata={'classes': ['a']})
    assert model.training
    held = {'metadata.json': ''}
    program = torch.export.load(file, extra_files=held)
    assert json.loads(held['metadata.json']) == {'classes': ['a']}
    assert not program.example_inputs
    targets = {str(node.target) for node in program.graph.nodes if node.op == 'call_function'}
    assert targets
    assert all(target.startswith('aten.') for target in targets)
    assert program.state_dict.keys() == model.state_dict().keys() - {f'{name}_mask' for name in get_masks(model)}
    model.eval()
    with torch.no_grad():
        for size in (1, 7, 100):
            torch.testing.assert_close(run_file(file, IMAGES[:size]), model(IMAGES[:size]), atol=1e-4, rtol=0)
    assert result.difference <= 1e-4


LATENTS = {
    'flipping': [LatentSigns('flipping')],
    'pruning': [LatentSigns('pruning')],
    'ternary': [LatentSigns('ternary')],
    'psg and flipping': [PSG(input_bits=8, grad_bits=16), LatentSigns('flipping')],
    'edge-popup': [EdgePopup(density=0.3, scope='global'), AffineFreeBatchNorm()],
    'biprop': [Biprop(density=0.3), AffineFreeBatchNorm()],
}


# both formats are written from the network in which the latents are merged: ONNX, the slower one, for two kinds
@pytest.mark.parametrize(
    ('kind', 'ending'),
    [
        *((kind, '.pt2') for kind in LATENTS),
        ('psg and flipping', '.onnx'),
        pytest.param('edge-popup', '.onnx', marks=pytest.mark.slow),
    ],
)
def test_latents_are_merged(tmp_path, kind, ending):
    """The file has the used weights and nothing else; the model keeps its latents."""
    layers = [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 144, 5))
    for converter in LATENTS[kind]:
        converter(network)
    network = initialize_(network, 'kaiming_normal', 3)
    used(network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith('latent'):
                parameter += torch.randn(parameter.shape) / 2
    network.eval()
    names = [*network.state_dict()]
    with torch.no_grad():
        expected, weight = network(IMAGES[:10]), network[0].used_weight()
        assert torch.equal(plain_network(network)(IMAGES[:10]), expected)
    assert {type(layer) for layer in plain_network(network, fold_batch_norm=True).modules()}.isdisjoint(
        {nn.BatchNorm2d, type(network[0])}
    )
    file = tmp_path / f'net{ending}'
    export(network, file, IMAGES, {'.onnx': 'onnx', '.pt2': 'torch'}[ending])
    torch.testing.assert_close(run_file(file, IMAGES[:10]), expected, atol=1e-4, rtol=0)
    assert [*network.state_dict()] == names
    if ending == '.onnx':
        tensors = tensors_of(stored(file))
        held = torch.from_numpy(tensors['0.weight'].copy())
    else:
        tensors = torch.export.load(file).state_dict
        held = tensors['0.weight']
    assert torch.equal(held, weight)
    assert not [name for name in tensors if name.endswith(('latent', 'lo', 'hi', 'scores', 'mask'))]


class SignConv(nn.Conv2d):
    """A layer that somebody else's converter makes: it computes with the signs of its weights."""

    special_backward = True
    exact = False

    def forward(self, x):
        weight = self.weight.sign()
        if not self.exact:  # the straight-through estimator
            weight = self.weight.clamp(-1, 1) + (weight - self.weight.clamp(-1, 1)).detach()
        return F.conv2d(x, weight, padding=1)


def sign_network() -> nn.Module:
    layers = [SignConv(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 256, 5)]
    return used(nn.Sequential(*layers))


def test_layers_of_another_converter_export_as_they_compute(tmp_path):
    network = sign_network().eval()
    export(network, tmp_path / 'net.pt2', IMAGES, 'torch')
    with torch.no_grad():
        expected = network(IMAGES)
    torch.testing.assert_close(run_file(tmp_path / 'net.pt2', IMAGES), expected, atol=1e-4, rtol=0)


def fails(tmp_path, network, match, images=IMAGES, **options):
    with pytest.raises(ValueError, match=match):
        export(network, tmp_path / 'net.pt2', images, 'torch', **options)
    assert not list(tmp_path.iterdir())


def test_what_would_be_wrong_is_not_written(tmp_path):
    fails(tmp_path, sign_network(), 'differs from the model', fold_batch_norm=True)  # folding would scale the signs
    # no tolerance excuses another best class
    fails(tmp_path, sign_network(), 'best class for [1-9]', fold_batch_norm=True, tolerance=1e9)
    network = used(convert_psg_(CIFARResNet(8, width=4), cfg=PSGConfig(predictive_forward=True, input_bits=2)))
    fails(tmp_path, network, 'differs from the model.*predictive_forward')
    network = CIFARResNet(8, width=4)
    network.linear.bias.data[0] = float('nan')
    fails(tmp_path, network, 'CIFARResNet itself gives logits that are NaN or infinite')


@pytest.mark.parametrize('largest, allowed', [(3e-5, 3e-10), (10.0, 1e-4), (1000.0, 1e-2)])
def test_how_much_may_differ(largest, allowed):
    """A share of the largest logit, large or small."""
    expected = torch.tensor([[0.0, largest], [-0.1 * largest, 0.5 * largest]])

    def run(error):
        return lambda images: expected[images[:, 0].long()] + torch.tensor([error, 0.0])

    assert _check(run(0.9 * allowed), torch.tensor([[0], [1]]), expected, 1e-5) == pytest.approx(
        0.9 * allowed, rel=0.05
    )
    with pytest.raises(ValueError, match=f'allowed: {allowed:.2g}'):
        _check(run(1.1 * allowed), torch.tensor([[0], [1]]), expected, 1e-5)


class FixedBatch(nn.Module):
    def forward(self, images):
        return images.reshape(2, -1)


class TwoWays(nn.Module):
    """A branch that depends on the numbers."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)

    def forward(self, images):
        x = self.bn(self.conv(images)).mean((2, 3))
        return x if x.sum() > 0 else -x


def test_networks_and_arguments_that_cannot_be_exported(tmp_path):
    fails(tmp_path, FixedBatch(), 'torch.export cannot follow FixedBatch', images=IMAGES[:2])
    fails(tmp_path, TwoWays(), 'torch.export cannot follow TwoWays')
    fails(tmp_path, TwoWays(), 'torch.fx cannot follow', fold_batch_norm=True)
    network = ConvNet(2, image_size=16)
    fails(tmp_path, network, 'none of the 0 BatchNorm layers', fold_batch_norm=True)
    fails(tmp_path, network, 'float32, N >= 1', images=torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
    fails(tmp_path, network, 'float32, N >= 1', images=IMAGES[:0])
    fails(tmp_path, network, 'tolerance must be 0 or more', tolerance=-1)
    with pytest.raises(ValueError, match='onnx or torch'):
        check_target('a.onnx', 'tflite', False)
    with pytest.raises(ValueError, match=r'must end in \.pt2'):
        check_target('a.onnx', 'torch', False)


class Dict(nn.Module):
    def forward(self, images):
        return {'logits': images.mean((2, 3))}


class Features(nn.Module):
    def forward(self, images):
        return images


def test_what_is_no_classifier_of_float32_is_refused(tmp_path):
    fails(tmp_path, ConvNet(2, image_size=16).double(), 'has numbers of torch.float64, .* call its float')
    fails(tmp_path, ConvNet(2, image_size=16).bfloat16(), 'has numbers of torch.bfloat16, .* call its float')
    fails(tmp_path, Dict(), r'must give logits \(N, classes\), float32, got dict')
    fails(tmp_path, Features(), r'must give logits .* got torch.float32 \(100, 3, 16, 16\)')
    fails(tmp_path, ConvNet(2, image_size=16), r'ConvNet takes no images of shape \(100, 1, 16, 16\)', IMAGES[:, :1])


@pytest.mark.parametrize('metadata', [{'mean': float('nan')}, {'classes': {'cat'}}], ids=str)
def test_metadata_that_json_cannot_hold_is_refused(tmp_path, metadata):
    network = ConvNet(2, image_size=16)
    fails(tmp_path, network, '^export: metadata must be plain data that JSON can hold: .', metadata=metadata)


def test_a_network_with_a_part_called_network(tmp_path):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

        def forward(self, images):
            return self.head(self.network(images).mean((2, 3)))

    export(Named(), tmp_path / 'net.pt2', IMAGES, 'torch')
    assert run_file(tmp_path / 'net.pt2', IMAGES).shape == (100, 10)


def test_a_path_of_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    export(ConvNet(2, image_size=16), '~/net.pt2', IMAGES, 'torch')
    assert (tmp_path / 'net.pt2').is_file()
    with pytest.raises(FileExistsError):
        check_target('~/net.pt2', 'torch', False)


SOURCE = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

    def forward(self, images):
        a_secret_name = self.norm(self.conv(images)).relu()
        return a_secret_name.mean((2, 3))
"""


@pytest.mark.parametrize('ending', [pytest.param('.onnx', marks=pytest.mark.slow), '.pt2'])
def test_a_file_holds_no_image_no_path_and_no_source(tmp_path, ending):
    """So it is the same from two checkouts, whatever images check it."""
    contents = []
    for folder, images in (('alice', IMAGES), ('bob/deeper', IMAGES.flip(0))):
        source = tmp_path / folder / 'own_net.py'
        source.parent.mkdir(parents=True)
        source.write_text(f'# {folder}' + '\n' * len(folder) + SOURCE)
        spec = importlib.util.spec_from_file_location('own_net', source)
        spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
        network = initialize_(module.Net(), seed=1)
        export(network, source.with_name(f'net{ending}'), images, {'.onnx': 'onnx', '.pt2': 'torch'}[ending])
        contents.append(source.with_name(f'net{ending}').read_bytes())
    parts = [_members(content) if ending == '.pt2' else {'': content} for content in contents]
    if not (ending == '.pt2' and TorchVersion(torch.__version__) < '2.8'):  # whose archives hold the time of day
        assert contents[0] == contents[1]
    assert parts[0] == parts[1]
    for secret in (
        b'a_secret_name',
        b'.py',
        str(tmp_path).encode(),
        str(ROOT).encode(),
        IMAGES[0, 0, 0].numpy().tobytes(),
    ):
        assert not any(secret in part for part in parts[0].values())


def _members(archive):
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_without_the_packages(tmp_path, monkeypatch):
    network = ConvNet(2, image_size=16)
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert export(network, tmp_path / 'net.onnx', IMAGES, 'onnx').difference is None
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(ImportError, match='needs onnxscript: pip install onnx onnxscript'):
        export(network, tmp_path / 'other.onnx', IMAGES, 'onnx')
    assert not (tmp_path / 'other.onnx').exists()


def test_a_torch_whose_exporter_fails_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, '__version__', TorchVersion('2.6.0+cu124'))
    for call in (check_target, lambda file, kind, _: export(nn.Identity(), file, IMAGES, kind)):
        with pytest.raises(ImportError, match=r'ONNX needs torch 2.7 or newer, .* 2.6.0\+cu124; update torch, or take'):
            call(tmp_path / 'net.onnx', 'onnx', False)
    check_target(tmp_path / 'net.pt2', 'torch', False)
    monkeypatch.setattr(torch, '__version__', TorchVersion('2.7.0+cu126'))
    check_target(tmp_path / 'net.onnx', 'onnx', False)
