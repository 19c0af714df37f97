"""tools/export.py, called as from a command line."""

import functools
import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from pab.models import CIFARResNet, ImagePreprocessor, initialize_
from pab.pruners import Rand, apply_masks_
from pab.registry import MODELS
from tests.exported import needs_onnx, run_file, session_of, trained, used
from tests.test_narrowing.networks import kill

pytestmark = needs_onnx

ROOT = Path(__file__).parents[2]


@pytest.fixture
def export_tool(tool):
    """A function: arguments -> what tools/export.py printed, and how it ended."""
    return functools.partial(tool, 'export.py')


R20 = str(ROOT / 'configs' / 'pab' / 'r20_cifar10.py')
SMALL = ['model.network.depth=8', 'model.network.width=4']


def small_r20():
    cfg = Config.fromfile(R20)
    cfg.model.network.update(depth=8, width=4)
    return cfg


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of a small network for CIFAR-10, with its masks, and the model."""
    cfg = small_r20()
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
    model.network = trained(model.network)
    torch.save({'meta': {}, 'state_dict': model.state_dict()}, tmp_path / 'epoch_1.pth')
    return tmp_path / 'epoch_1.pth', model.eval()


@pytest.mark.slow
def test_tool_on_real_images(export_tool, checkpoint, cifar10_root, monkeypatch):
    file, model = checkpoint
    monkeypatch.setenv('PAB_DATA', str(cifar10_root))
    out = file.with_name('net.onnx')
    options = ('--config', R20, '--format', 'onnx', '--fold-batch-norm', '--cfg-options', *SMALL)
    out.write_bytes(b'mine')
    assert 'exists; choose another file, or pass --force' in export_tool(file, out, *options)[1]
    assert out.read_bytes() == b'mine'
    printed, status = export_tool(file, out, '--force', *options)
    assert status == 0, status
    assert '9 of 9 layers folded' in printed
    assert 'checked      by 100 images of CIFAR10, in batches of 1 and 100' in printed
    session = session_of(out)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told['classes'])[:2] == ['airplane', 'automobile']
    assert json.loads(told['mean']) == [0.4914, 0.4822, 0.4465]
    # from the file alone: pixels -> logits
    pixels = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(json.loads(told[key]))[:, None, None] for key in ('mean', 'std'))
    logits = session.run(None, {'images': ((pixels / 255 - mean) / std).numpy()})[0]
    with torch.no_grad():
        expected = model(model.data_preprocessor({'images': pixels})['images'])
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=0)


def test_classes_are_those_of_the_checkpoint(export_tool, checkpoint, tmp_path):
    file, _ = checkpoint
    for name in 'abde':  # the test set has nothing of c
        (tmp_path / 'val' / name).mkdir(parents=True)
        Image.new('RGB', (32, 32)).save(tmp_path / 'val' / name / '1.png')
    cfg = small_r20()
    cfg.test_dataloader.dataset = dict(type='ImageFolder', split='val', data_root=str(tmp_path), size=32, resize=32)
    cfg.dump(tmp_path / 'config.py')
    content = torch.load(file)
    options = ('--config', tmp_path / 'config.py', '--format', 'torch')

    def export(name, classes):
        content['meta'] = {'dataset_meta': {'classes': classes}}
        torch.save(content, file)
        return export_tool(file, tmp_path / name, *options)

    printed, status = export('all.pt2', tuple('abcdefghij'))
    assert status == 0, status
    assert json.loads(metadata_of(tmp_path / 'all.pt2'))['classes'] == list('abcdefghij')
    assert 'by 4 images of ImageFolder' in printed
    refusal = export('no.pt2', tuple('ABCDEFGHIJ'))[1]
    assert 'error: test_dataloader: has classes that the network does not have (' in refusal


def test_tool_without_the_data_takes_random_images(export_tool, checkpoint, tmp_path, monkeypatch):
    file, _ = checkpoint
    monkeypatch.setenv('PAB_DATA', str(tmp_path / 'nothing'))
    out, options = tmp_path / 'net.pt2', ('--config', R20, '--format', 'torch')
    printed, status = export_tool(file, out, *options, '--cfg-options', *SMALL)
    assert status == 0, status
    assert 'checked      by 100 random images (the test set cannot be read: CIFAR10:' in printed
    printed, status = export_tool(
        file, out, '--config', R20, '--format', 'torch', '--force', '--cfg-options', *SMALL[:1]
    )
    assert status.startswith('error: ')
    assert 'is a checkpoint of another model' in status
    lost = torch.load(file)
    lost['state_dict']['network.conv1.weight'] += 1
    torch.save(lost, file)
    assert 'not 0' in export_tool(file, out, *options, '--force', '--cfg-options', *SMALL)[1]


def test_tool_refuses_in_one_line(export_tool, tmp_path):
    file = tmp_path / 'some.pth'

    def refusal(*options):
        return export_tool(file, tmp_path / 'net.pt2', '--format', *options)[1]

    assert 'there is no file' in refusal('torch')
    torch.save({'a': 1}, file)
    assert 'no state_dict' in refusal('torch')
    torch.save({'state_dict': {}}, file)
    assert '--config CONFIG' in refusal('torch')
    assert 'must end in .onnx' in refusal('onnx', '--config', R20)
    assert 'is a checkpoint of another model' in refusal('torch', '--config', R20)


def metadata_of(file):
    held = {'metadata.json': ''}
    torch.export.load(file, extra_files=held)
    return held['metadata.json']


def test_tool_on_a_compact_file(export_tool, tmp_path):
    compact = pytest.importorskip('pab.compact')
    network = initialize_(CIFARResNet(8, width=4), 'kaiming_normal', 3)
    apply_masks_(network, Rand(density=0.5).prune(network, input_shape=(3, 16, 16), seed=0))
    file, out = tmp_path / 'net.pab', tmp_path / 'net.pt2'
    compact.save(
        used(network),
        file,
        network=dict(type='CIFARResNet', depth=8, width=4),
        seed=3,
        classes=list('abcdefghij'),
        preprocessing=dict(mean=[0.5, 0.4, 0.3], std=[0.25, 0.25, 0.25], resize=20, size=16),
        input_shape=(3, 16, 16),
    )
    printed, status = export_tool(file, out, '--format', 'torch')
    assert status == 0, status
    assert 'by 100 random images (no test set is known)' in printed
    assert json.loads(metadata_of(out))['resize'] == 20
    assert "['a', 'b'" in printed
    pixels = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    images = ImagePreprocessor((0.5, 0.4, 0.3), (0.25, 0.25, 0.25))({'images': pixels})['images'].contiguous()
    with torch.no_grad():
        torch.testing.assert_close(run_file(out, images), network.eval()(images), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_compact_file_that_says_nothing_of_its_images(export_tool, tmp_path, monkeypatch):
    """Each way that the message names leads to a file; a config gives normalisation, size and test images."""
    compact, file, out = pytest.importorskip('pab.compact'), tmp_path / 'net.pab', tmp_path / 'net.pt2'
    network = initialize_(CIFARResNet(8, width=4), 'kaiming_normal', 3)
    compact.save(network, file, network=dict(type='CIFARResNet', depth=8, width=4), seed=3)
    monkeypatch.setenv('PAB_DATA', str(tmp_path / 'nothing'))
    refused = export_tool(file, out, '--format', 'torch')[1]
    assert 'give a config with a test set, or --config CONFIG --cfg-options "model.input_shape=(C, H, W)"' in refused
    assert '--cfg-options changes a config' in export_tool(file, out, '--format', 'torch', '--cfg-options', 'a=1')[1]
    size = ['--cfg-options', 'model.input_shape=(3, 24, 24)']
    printed, status = export_tool(file, out, '--format', 'torch', '--config', R20, *size)
    assert status == 0, status
    assert '[3, 24, 24]' in printed
    assert 'mean         [0.4914' in printed
    bare = tmp_path / 'bare.py'
    bare.write_text("model = dict(type='ImageClassifier', network=dict(type='CIFARResNet', depth=8, width=4))")
    printed, status = export_tool(file, out, '--format', 'torch', '--force', '--config', bare, *size)
    assert status == 0, status
    assert 'as in training' in printed


@pytest.mark.slow
def test_a_compact_file_without_normalisation_and_a_test_set_of_pixels(
    export_tool, tmp_path, cifar10_root, monkeypatch
):
    compact, file, out = pytest.importorskip('pab.compact'), tmp_path / 'net.pab', tmp_path / 'net.pt2'
    network = initialize_(CIFARResNet(8, width=4), 'kaiming_normal', 3)
    compact.save(network, file, network=dict(type='CIFARResNet', depth=8, width=4), seed=3)
    monkeypatch.setenv('PAB_DATA', str(cifar10_root))
    config = Config.fromfile(R20)
    config.data_preprocessor = None
    config.dump(tmp_path / 'config.py')
    printed, status = export_tool(file, out, '--format', 'torch', '--config', tmp_path / 'config.py')
    assert status == 0, status
    assert 'random images (nothing says how pixels are normalised)' in printed


def test_narrow(export_tool, checkpoint, tmp_path, monkeypatch):
    """The file has the channels that are needed, and what it has is printed; its logits are those of the checkpoint."""
    file, model = checkpoint
    kill(model.network, 0.8)
    torch.save({'meta': {}, 'state_dict': model.state_dict()}, file)
    monkeypatch.setenv('PAB_DATA', str(tmp_path / 'nothing'))
    out, options = tmp_path / 'net.pt2', ('--format', 'torch', '--narrow', '--fold-batch-norm')
    printed, status = export_tool(file, out, '--config', R20, *options, '--cfg-options', *SMALL)
    assert status == 0, status
    told = r'narrow +(\d+) of 10 layers are smaller: (\S+) -> (\S+) million MACs .*\n.*\n +(\S+) -> (\S+) bytes'
    found = re.search(told, printed)
    layers, macs_before, macs, size_before, size = (float(text.replace(',', '')) for text in found.groups())
    assert layers > 4
    assert (macs < 0.8 * macs_before, size < 0.8 * size_before) == (True, True)
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(run_file(out, images), model(images), rtol=0, atol=1e-4)


def test_narrow_of_a_network_whose_layers_cannot_be_counted(export_tool, checkpoint, tmp_path, monkeypatch):
    file, _ = checkpoint

    def forward(self, images, plain=CIFARResNet.forward):
        return plain(self, images * torch.ones(3, 1, 1))  # of the CPU

    monkeypatch.setattr(CIFARResNet, 'forward', forward)
    monkeypatch.setenv('PAB_DATA', str(tmp_path / 'nothing'))
    out = tmp_path / 'net.pt2'
    printed, status = export_tool(file, out, '--config', R20, '--format', 'torch', '--narrow', '--cfg-options', *SMALL)
    assert (status, out.is_file()) == (0, True), status
    assert 'narrow       not counted, as the network does not run on the meta device: ' in printed
