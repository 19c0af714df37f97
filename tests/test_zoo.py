"""The networks that come with pab: the table of zoo/README.md says what their files hold, and they have names."""

import hashlib
from pathlib import Path

import pytest
import torch

import pab
from pab import files
from pab.datasets import CIFAR10

ZOO = Path(__file__).parents[1] / 'zoo'
LINES = [line.strip('| ').split(' | ') for line in (ZOO / 'README.md').read_text().splitlines() if line[:3] == '| `']
ROWS = {file.strip('`'): cells for file, *cells in LINES}


def test_the_table_has_every_file_with_its_bytes_and_sha256():
    assert sorted(ROWS) == sorted(path.name for path in ZOO.glob('*.pab'))
    for name, (size, *_, digest) in ROWS.items():
        content = (ZOO / name).read_bytes()
        assert (f'{len(content):,}', hashlib.sha256(content).hexdigest()) == (size, digest.strip('`'))


@pytest.mark.slow
@pytest.mark.parametrize('name', ROWS)
def test_a_file_reaches_the_accuracy_of_the_table(name, cifar10_root):
    network, images = pab.load(name.removesuffix('.pab')), CIFAR10(split='test', data_root=cifar10_root)
    assert list(network.classes) == list(images.metainfo['classes'])
    with torch.no_grad():
        guesses = torch.cat([network(part).argmax(1) for part in images.images.split(500)])
    accuracy = 100 * (guesses == images.labels).double().mean().item()
    assert accuracy == pytest.approx(float(ROWS[name][1]), abs=0.1)


def test_a_name_is_found_after_a_file_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = sorted(ROWS)[0].removesuffix('.pab')
    assert files.find_trained(name) == ZOO / f'{name}.pab'
    for path in (f'./{name}', f'{name}.pab', f'~/{name}', tmp_path / name):  # paths, and endings, are no names
        assert files.find_trained(path) == Path(path).expanduser()
    (tmp_path / name).touch()
    assert files.find_trained(name) == Path(name)
    with pytest.raises(FileNotFoundError, match=rf'there is no file other, and .* in pab, which has {name}'):
        pab.load('other')
    monkeypatch.setattr(files, 'ZOO', tmp_path / 'gone')
    with pytest.raises(FileNotFoundError, match=r'no network of this name in pab, which has none here'):
        pab.load('other')


def test_commands_take_names(tool, tmp_path):
    name = sorted(ROWS)[0].removesuffix('.pab')
    printed, status = tool('compact.py', 'info', name)
    assert (f'{ROWS[name + ".pab"][0]} bytes' in printed, status) == (True, 0)
    printed, status = tool('compact.py', 'unpack', name, tmp_path / 'net.pth')
    assert status == 0
    assert (tmp_path / 'net.pth').is_file()
    for command in (
        ('export.py', 'other', tmp_path / 'net.pt2', '--format', 'torch'),
        ('compact.py', 'info', 'other'),
        ('test.py', 'pab/quickstart', 'other'),
        ('analyze.py', 'pab/quickstart', 'other'),
    ):
        assert 'there is no file other, and no network of this name' in tool(*command)[1]
