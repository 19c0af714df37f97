"""Trained networks from files: what they predict, by hand, and what is refused."""

import csv
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import pab
from pab import compact
from pab.datasets import ImageFolder, decode_rgb, to_grey
from pab.models import initialize_
from pab.prediction import TrainedClassifier, find_images
from pab.pruners import Rand, apply_masks_
from pab.registry import MODELS
from tests.coloured import COLOURS, PREPROCESSING, draw


@pytest.fixture
def file(tmp_path):
    """A function: settings of a compact file -> one of ChannelMeans."""

    def save(**settings):
        settings = dict(classes=list(COLOURS), preprocessing=PREPROCESSING, input_shape=(3, 8, 8)) | settings
        network = settings.pop('network', dict(type='ChannelMeans'))
        compact.save(MODELS.build(network), tmp_path / 'net.pab', network=network, seed=None, signs=(), **settings)
        return tmp_path / 'net.pab'

    return save


def test_by_hand(file, tmp_path):
    image = draw(tmp_path / 'a.png', COLOURS['green'])
    (answer,) = pab.predict(file(), image, top=2)
    # logits -1, 1, -1
    share = math.exp(1) / (math.exp(1) + 2 * math.exp(-1))
    assert answer.image == image
    assert answer.top == (('green', pytest.approx(share)), ('red', pytest.approx((1 - share) / 2)))
    assert answer.error == ''


def test_from_a_checkpoint_as_from_its_compact_file(finished, tmp_path):
    """The tiny network of the small run, pruned, with PSG; the checkpoint says by itself how it was trained."""
    (checkpoint,) = finished.folder.glob('epoch_3.pth')
    before = torch.random.get_rng_state()
    model = pab.load(checkpoint)
    assert torch.equal(torch.random.get_rng_state(), before)
    content = torch.load(checkpoint, weights_only=True)
    compact.pack(content['settings'], content, tmp_path / 'net.pab')
    small = pab.load(tmp_path / 'net.pab')
    pixels = torch.randint(256, (5, 1, 6, 6), dtype=torch.uint8)
    with torch.no_grad():
        logits = model(pixels)
        assert torch.equal(small(pixels), logits)
        torch.testing.assert_close(model(pixels / 255), logits)
        torch.testing.assert_close(compact.load(tmp_path / 'net.pab')((pixels / 255 - 0.3) / 0.38), logits)
    assert model.classes == small.classes == ('a', 'b', 'c', 'd')
    assert model.input_shape == small.input_shape == (1, 6, 6)
    assert not model.training
    draw(tmp_path / 'images' / 'x.png')
    answers = [pab.predict(any_of, tmp_path / 'images') for any_of in (checkpoint, model, small)]
    assert len(answers[0][0].top) == 4
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize('converter', [dict(type='LatentSigns', mode='flipping'), dict(type='EdgePopup', density=0.5)])
def test_latents_of_a_checkpoint_and_its_masks(converter, tmp_path):
    settings = dict(type='ImageClassifier', network=dict(type='CIFARResNet', depth=8, width=2), converter=converter)
    model = MODELS.build(settings)
    initialize_(model.network, seed=1)
    if converter['type'] == 'LatentSigns':
        apply_masks_(model, Rand(density=0.5).prune(model, seed=0))
    content = {'state_dict': model.state_dict(), 'settings': {'model': settings}, 'meta': {}}
    torch.save(content, tmp_path / 'a.pth')
    images = torch.randn(2, 3, 8, 8)
    loaded = pab.load(tmp_path / 'a.pth')
    assert not loaded.normalises
    with torch.no_grad():
        assert torch.equal(loaded(images), model.eval()(images))
    with pytest.raises(ValueError, match='nothing says how pixels are normalised'):
        pab.predict(loaded, draw(tmp_path / 'a.png'))


def test_images_are_those_of_the_data_set(file, tmp_path):
    """Every kind of file is read, turned, resized and cropped as ImageFolder does it for a validation."""
    pixels = np.random.default_rng(0).integers(0, 256, (13, 20, 3), dtype=np.uint8)
    image, folder = Image.fromarray(pixels), tmp_path / 'val' / 'red'
    folder.mkdir(parents=True)
    draw(tmp_path / 'val' / 'green' / 'x.png')
    image.save(folder / 'rgb.png')
    image.convert('RGBA').save(folder / 'rgba.png')
    image.convert('CMYK').save(folder / 'cmyk.jpg')
    image.convert('P').save(folder / 'palette.png')
    image.convert('L').save(folder / 'grey.jpg')
    Image.fromarray(np.arange(260, dtype=np.uint16).reshape(13, 20) * 200).save(folder / 'sixteen.png')
    tags = Image.Exif()
    tags[0x112] = 6  # turned by 90 degrees
    image.save(folder / 'turned.jpg', exif=tags)
    data, model = ImageFolder('val', tmp_path, size=8, resize=9), pab.load(file())
    assert [data.path(i) for i in range(len(data))] == find_images(tmp_path / 'val')
    assert len(data) == 8
    for index in range(len(data)):
        shown = model.fit(decode_rgb(data.path(index).read_bytes()))
        assert torch.equal(shown, data[index]['images'])
    assert [answer.error for answer in pab.predict(model, folder)] == [''] * 7


def test_the_size_without_a_resize():
    def fitted(shape, size, **known):
        return tuple(TrainedClassifier(nn.Identity(), (), known, shape).fit(torch.zeros(3, *size).byte()).shape)

    assert fitted((3, 8, 8), (8, 8)) == (3, 8, 8)
    assert fitted((3, 8, 8), (13, 20)) == (3, 8, 8)
    assert fitted((3, 8, 6), (3, 50)) == (3, 8, 6)
    assert fitted((1, 8, 8), (8, 8)) == (1, 8, 8)
    assert fitted(None, (13, 20)) == (3, 13, 20)
    assert fitted(None, (13, 20), mean=[0.5], std=[0.5]) == (1, 13, 20)
    assert fitted((3, 8, 8), (13, 20), resize=6) == (3, 6, 9)
    with pytest.raises(ValueError, match='image files have 3 channels or 1, and this network takes 4'):
        fitted((4, 8, 8), (8, 8))
    with pytest.raises(ValueError, match="preprocessing: size must be an int >= 1, got '8'"):
        TrainedClassifier(nn.Identity(), (), dict(size='8'))


def test_grey_as_pillow_has_it():
    colours = torch.randint(256, (3, 40, 40), dtype=torch.uint8)
    by_pillow = np.asarray(Image.fromarray(colours.permute(1, 2, 0).numpy()).convert('L'))
    assert to_grey(colours)[0].tolist() == by_pillow.tolist()
    grey = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)
    assert torch.equal(to_grey(grey), grey[:1])


def test_images_of_several_sizes_keep_their_order(file, tmp_path):
    names = [*COLOURS] * 15  # more than a batch
    paths = [draw(tmp_path / f'{n:02}.png', COLOURS[name], size=(8 + n % 3, 9)) for n, name in enumerate(names)]
    answers = pab.predict(file(preprocessing=dict(mean=[0.5] * 3, std=[0.5] * 3), input_shape=()), paths, top=1)
    assert [answer.top[0][0] for answer in answers] == names


def test_outputs_without_names_and_names_without_outputs(file, tmp_path):
    image = draw(tmp_path / 'a.png', COLOURS['blue'])
    assert pab.predict(file(classes=['x']), image)[0].top[0][0] == '2'
    with pytest.raises(ValueError, match='names 4 classes, and its network has 3 outputs'):
        pab.predict(file(classes=list('abcd')), image)


def test_a_logit_that_is_not_finite_is_no_answer(file, tmp_path):
    model = pab.load(file())
    model.network.scale.data[1] = math.nan
    (answer,) = pab.predict(model, draw(tmp_path / 'a.png'))
    assert (answer.top, answer.error) == ((), 'the network gives it logits that are not finite')


@pytest.mark.parametrize('top', [0, -1, 1.0, True])
def test_a_bad_top(file, tmp_path, top):
    with pytest.raises(ValueError, match='predict: top must be an int >= 1'):
        pab.predict(file(), draw(tmp_path / 'a.png'), top)


def test_what_is_no_image_file(file, tmp_path):
    with pytest.raises(TypeError, match=r'for tensors call load\(file\)\(images\)'):
        pab.predict(file(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match='name one image or folder'):
        pab.predict(file(), [])


EVIL = [
    (dict(type='os.getcwd'), "'os.getcwd' is no model or converter of pab"),
    (dict(type='evil_module.Evil'), "'evil_module.Evil' is no model"),
    (dict(type='ChannelMeans', _scope_='evil_module'), "'_scope_' is no name of an argument"),
    (dict(type='CompactNetwork', file='net.pab'), 'a data file names no other'),
    (dict(type='MyNet'), r'import a class of your own .* \(--config of the commands\)'),
]


def test_a_training_that_mixes_its_batches(tmp_path):
    mixed = dict(type='ImagePreprocessor', mean=[0.5] * 3, std=[0.5] * 3, batch_transforms=[dict(type='MixUp')])
    mixed |= dict(num_classes=3)
    model = dict(type='ImageClassifier', network=dict(type='ChannelMeans'))
    state = {'network.scale': torch.ones(3)}
    for settings in (dict(model=model, data_preprocessor=mixed), dict(model=model | dict(data_preprocessor=mixed))):
        torch.save({'state_dict': state, 'settings': settings}, tmp_path / 'a.pth')
        assert pab.load(tmp_path / 'a.pth').normalises


@pytest.mark.parametrize(('network', 'message'), EVIL)
def test_the_settings_of_a_checkpoint_import_nothing(network, message, tmp_path, monkeypatch):
    (tmp_path / 'evil_module.py').write_text('')
    monkeypatch.syspath_prepend(str(tmp_path))
    model = dict(type='ImageClassifier', network=network)
    data = dict(dataset=dict(type='evil_module.Data'))
    torch.save({'state_dict': {}, 'settings': dict(model=model, test_dataloader=data)}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=message):
        pab.load(tmp_path / 'a.pth')
    model['network'] = dict(type='ChannelMeans')
    state = {'network.scale': torch.ones(3)}
    torch.save({'state_dict': state, 'settings': dict(model=model, test_dataloader=data)}, tmp_path / 'a.pth')
    assert pab.load(tmp_path / 'a.pth').network.scale.tolist() == [1, 1, 1]  # the data set is not needed
    assert 'evil_module' not in sys.modules


def test_files_that_are_neither(tmp_path):
    (tmp_path / 'a.pab').write_text('image,class\n' * 9)
    with pytest.raises(ValueError, match=r'a\.pab'):
        pab.load(tmp_path / 'a.pab')
    (tmp_path / 'a.csv').write_text('image,class\n')
    with pytest.raises(ValueError, match='was not written by torch'):
        pab.load(tmp_path / 'a.csv')
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='is no compact file and no checkpoint: it has no state_dict'):
        pab.load(tmp_path / 'a.pth')
    torch.save({'state_dict': {}}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'does not say of which network it is; .*--config CONFIG'):
        pab.load(tmp_path / 'a.pth')
    for name in ('b.pth', 'b.pab'):
        with pytest.raises(FileNotFoundError):
            pab.load(tmp_path / name)


def test_the_import_of_pab_is_cheap():
    check = 'import pab, sys; assert "torch" not in sys.modules; assert not hasattr(pab, "train")'
    subprocess.run([sys.executable, '-c', check], check=True)


@pytest.fixture
def run(file, tmp_path, tool):
    """A function: arguments -> what tools/predict.py printed of the images in ``images``, and its status."""

    def act(*options, **settings):
        return tool('predict.py', file(**settings), tmp_path / 'images', *options)

    return act


def test_the_tool_names_what_it_cannot_read(run, tmp_path):
    images = tmp_path / 'images'
    draw(images / 'red' / 'a.png')
    draw(images / 'deep' / 'er' / 'b.JPG', COLOURS['blue'])
    draw(images / '.hidden' / 'c.png')
    (images / 'd.png').write_bytes(b'')
    (images / 'deep' / 'e.jpg').write_bytes((images / 'deep' / 'er' / 'b.JPG').read_bytes()[:300])
    (images / 'f.txt').write_text('no image, and not asked for')
    table = tmp_path / 'out' / 'a.csv'
    printed, status = run('--csv', table, '--top', 1)
    assert status == 'error: 2 of 4 images have no prediction'
    assert f'{images}/red/a.png: red 78.70 %' in printed
    assert f'{images}/deep/er/b.JPG: blue' in printed
    assert f'{images}/d.png: left out: it is empty' in printed
    assert 'e.jpg: left out: ' in printed
    rows = list(csv.reader(table.open()))
    assert rows[0] == ['image', 'class 1', 'probability 1']
    assert [row[:2] for row in rows[1:]] == [
        [f'{images}/d.png'],
        [f'{images}/deep/e.jpg'],
        [f'{images}/deep/er/b.JPG', 'blue'],
        [f'{images}/red/a.png', 'red'],
    ]
    assert float(rows[-1][2]) == pytest.approx(0.786986)
    kept = table.read_bytes()
    assert 'exists; choose another file' in run('--csv', table)[1]
    assert table.read_bytes() == kept
    for name in ('d.png', 'deep/e.jpg'):
        (images / name).unlink()
    assert run('--csv', table, '--force')[1] == 0
    assert len(list(csv.reader(table.open()))[1]) == 7  # all three classes


def test_the_tool_and_names_that_mean_something_to_others(run, tmp_path):
    draw(tmp_path / 'images' / 'a.png', COLOURS['green'])
    table = tmp_path / 'a.csv'
    names = ['a, "b"', '=1+1', 'line\nbreak\udcff']
    printed, status = run('--csv', table, classes=names)
    assert status == 0
    assert r'a.png: =1+1 78.70 %, a, "b" 10.65 %, line\nbreak\udcff 10.65 %' in printed
    (row,) = list(csv.reader(table.open()))[1:]
    assert row[1::2] == ["'=1+1", 'a, "b"', 'line\nbreak\\udcff']


def test_the_tool_refuses_in_one_line(run, tmp_path):
    assert 'there is no image or folder' in run()[1]
    (tmp_path / 'images').mkdir()
    assert 'error: there is no image in the folder' in run()[1]
    draw(tmp_path / 'images' / 'a.png')
    assert run('--top', 4)[1] == 'error: predict: top must not exceed the number of classes, 3, got 4'
    assert run('--cfg-options', 'a=1')[1] == 2
    assert 'nothing says how pixels are normalised' in run(preprocessing={})[1]
    config = tmp_path / 'config.py'
    config.write_text(
        "model = dict(type='ImageClassifier', network=dict(type='ChannelMeans'))\n"
        "data_preprocessor = dict(type='ImagePreprocessor', mean=(0.5,) * 3, std=(0.5,) * 3)\n"
    )
    printed, status = run('--config', config, preprocessing={})
    assert status == 0, status
    assert 'red 78.70 %' in printed
