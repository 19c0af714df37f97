"""Photographs of one's own: splits by share, grey images and transforms."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from pab.datasets import ImageFolder, SampleIndex
from pab.datasets.decode import decode_rgb, to_grey
from pab.prediction import TrainedClassifier
from pab.preprocessing import preprocessing_of

SMALL = {'size': 8}
COUNTS = {'ant': 2, 'bee': 5, 'cat': 10}


@pytest.fixture
def photos(tmp_path) -> Path:
    """photos/<class>/<number>.png with as many files as COUNTS says; every one of another colour."""
    for label, (name, count) in enumerate(COUNTS.items()):
        (tmp_path / 'photos' / name).mkdir(parents=True)
        for number in range(count):
            Image.new('RGB', (18 + number, 12), (80 * label, 20 * number, 7)).save(
                tmp_path / 'photos' / name / f'{number}.png'
            )
    return tmp_path / 'photos'


def names(dataset: ImageFolder) -> list[str]:
    return [str(dataset.path(index).relative_to(dataset.root)) for index in range(len(dataset))]


def split(root: Path, share: float = 0.3, **options) -> tuple[list[str], list[str]]:
    options = {'data_root': root, 'val_share': share, **SMALL, **options}
    return names(ImageFolder('train', **options)), names(ImageFolder('val', **options))


@pytest.mark.parametrize(('share', 'counts'), [(0.3, [1, 2, 3]), (0.01, [1, 1, 1]), (0.99, [1, 4, 9])])
def test_the_share_of_each_class(photos, share, counts):
    train, val = split(photos, share)
    assert sorted(train + val) == sorted(f'{name}/{n}.png' for name, count in COUNTS.items() for n in range(count))
    assert [sum(name.startswith(cls) for name in val) for cls in COUNTS] == counts


def test_the_seed_of_the_split_alone_decides(photos, tmp_path):
    before = split(photos)
    torch.manual_seed(9)
    assert split(photos) == before
    assert split(photos, split_seed=1) != before
    (photos / 'dog').mkdir()
    for number in range(3):
        Image.new('RGB', (9, 9)).save(photos / 'dog' / f'{number}.png')
    assert [[name for name in part if 'dog' not in name] for part in split(photos)] == list(before)
    shutil.rmtree(photos / 'dog')
    shutil.move(photos, tmp_path / 'elsewhere')
    assert split(tmp_path / 'elsewhere') == before


def test_where_the_images_are_taken_from(photos, tmp_path):
    flat = split(photos)
    (tmp_path / 'with').mkdir()
    shutil.copytree(photos, tmp_path / 'with' / 'train')
    assert split(tmp_path / 'with') == flat  # of train/, where there is no val/
    for name in ('ant', 'bee'):
        shutil.copytree(photos / name, tmp_path / 'with' / 'val' / name)
    train, val = split(tmp_path / 'with')
    assert (len(train), len(val)) == (17, 7)  # a val/ of its own
    shutil.copytree(photos / 'bee', photos / 'test' / 'bee')
    assert split(photos) == flat  # a test/ is no class
    assert len(ImageFolder('test', photos, val_share=0.3, classes=list(COUNTS), **SMALL)) == 5
    shutil.move(photos / 'bee', photos / 'train')  # railways: images, and no folder, in it
    assert ImageFolder('train', photos, val_share=0.3, **SMALL).metainfo['classes'] == ('ant', 'cat', 'train')


def test_shares_and_classes_that_cannot_be_split(photos):
    for share in (0, 1, -0.1, 1.5):
        with pytest.raises(ValueError, match=r'ImageFolder: val_share is a share of the images in \(0, 1\), got '):
            split(photos, share)
    with pytest.raises(ValueError, match='ImageFolder: split_seed must be an int >= 0, got -1'):
        split(photos, split_seed=-1)
    (photos / 'ant' / '1.png').unlink()
    with pytest.raises(ValueError, match=r'val_share=0.3 cannot split the class ant, which has one image; add .* val'):
        split(photos)


def test_grey_images_are_those_of_pillow(photos):
    pixels = np.random.RandomState(0).randint(0, 256, (9, 9, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    want = torch.from_numpy(np.array(image.convert('L')))[None]
    assert torch.equal(to_grey(torch.from_numpy(pixels).permute(2, 0, 1)), want)
    grey = want.expand(3, -1, -1)
    assert torch.equal(to_grey(grey), want)  # no level moves
    dataset = ImageFolder('val', photos, val_share=0.5, grey=True, **SMALL)
    assert dataset[0]['images'].shape == (1, 8, 8)
    (dataset.path(1)).write_bytes(b'')
    assert torch.equal(dataset[1]['images'], torch.zeros(1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match='size must be an int >= 1'):
        ImageFolder('val', photos, val_share=0.5, size=0)


def test_transforms_of_ones_own(photos):
    options = dict(val_share=0.5, transforms=[dict(type='RandomCrop', size=6), dict(type='RandomInvert', p=0.5)])
    dataset = ImageFolder('train', photos, **options)
    own = v2.Compose([v2.RandomCrop(6), v2.RandomInvert(0.5)])
    for index in range(3):
        torch.manual_seed(11)
        want = own(decode_rgb(dataset.path(index).read_bytes()))
        assert torch.equal(dataset[SampleIndex(index, 11)]['images'], want)
    broken = ImageFolder('val', photos, **options)
    broken.path(0).write_bytes(b'')
    assert broken[0]['images'].shape == (3, 6, 6)


@pytest.mark.parametrize(
    ('transforms', 'message'),
    [
        ([dict(type='Resize', size=4)], r'must have one shape, got \(3, 4, [678]\) of image 0, \(3, 4, 4\) of another'),
        ([dict(type='ToPILImage')], r'transforms must end in a tensor \(C, H, W\), got Image'),
        ([dict(type='Normalize', mean=[0.5], std=[0.5])], r'transforms fail on an image of \(3, 256, 256\): '),
        ([dict(type='MixUp')], 'ImageFolder: MixUp mixes the images of a batch'),
    ],
)
def test_transforms_that_give_no_batch(photos, transforms, message):
    with pytest.raises(ValueError, match=message):
        _ = ImageFolder('val', photos, val_share=0.5, transforms=transforms)[0]


@pytest.mark.parametrize(
    'options',
    [
        dict(size=8, grey=True),
        dict(transforms=[dict(type='Resize', size=[9, 5])]),
        dict(transforms=[dict(type='CenterCrop', size=7)], grey=True),
    ],
)
def test_a_prediction_reads_images_as_the_data_set_does(photos, options):
    dataset = ImageFolder('val', photos, val_share=0.5, **options)
    known = preprocessing_of(dict(test_dataloader=dict(dataset=dict(type='ImageFolder', **options))))
    channels = 1 if options.get('grey') else 3
    model = TrainedClassifier(torch.nn.Identity(), preprocessing=known, input_shape=(channels, 8, 8))
    for index in range(3):
        assert torch.equal(model.fit(decode_rgb(dataset.path(index).read_bytes())), dataset[index]['images'])
