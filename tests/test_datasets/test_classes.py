import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from pab.datasets import ImageFolder, InMemoryDataset, number_classes_

SMALL = {'size': 16, 'resize': 20}
PETS = ('ant', 'bee', 'cat', 'dog')


def make(root, split, *classes, images=2):
    """A folder of images for each class."""
    for name in classes:
        folder = root / split / name
        folder.mkdir(parents=True)
        for number in range(images):
            Image.fromarray(np.full((24, 24, 3), 9, np.uint8)).save(folder / f'{number}.png')
    return root


def names(dataset):
    """The class that each label stands for, beside the one of its file's folder."""
    own = dataset.metainfo['classes']
    return [(own[label], dataset.path(i).relative_to(dataset.root).parts[0]) for i, label in enumerate(dataset.labels)]


def test_a_subset_is_numbered_by_name(tmp_path):
    make(tmp_path, 'val', 'ant', 'cat', 'dog')
    dataset = ImageFolder('val', tmp_path, **SMALL)
    meta = dataset.metainfo
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]
    number_classes_(dataset, PETS, 'val', 'train')
    assert dataset.labels.tolist() == [0, 0, 2, 2, 3, 3] == [dataset[i]['labels'] for i in range(6)]
    assert meta['classes'] == PETS  # evaluators hold the dict
    number_classes_(dataset, list(PETS), 'val', 'train')
    number_classes_(dataset, ('dog', *PETS[:3]), 'val', 'train')
    assert dataset.labels.tolist() == [1, 1, 3, 3, 0, 0]
    assert all(told == folder for told, folder in names(dataset))


def test_labels_in_memory_are_numbered_by_name():
    dataset = InMemoryDataset(torch.zeros(4, 1, 2, 2), torch.tensor([2, -100, 0, 1]), ['x', 'y', 'z'])
    number_classes_(dataset, ['z', 'w', 'y', 'x'], 'val', 'train')
    assert dataset.labels.tolist() == [0, -100, 3, 2]
    assert dataset.labels.dtype == torch.int64


def test_classes_that_are_not_known_are_listed(tmp_path):
    dataset = ImageFolder('val', make(tmp_path, 'val', 'ant', 'bee', 'eel'), **SMALL)
    text = r'val: has classes that train does not have \(only in val \(of 3\): eel; only in train .*4\): cat, dog\); '
    with pytest.raises(ValueError, match=text):
        number_classes_(dataset, PETS, 'val', 'train')
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]
    many = [f'c{i:02}' for i in range(30)]
    with pytest.raises(ValueError, match=r'only in train .*: c00, c01, c02, c03, c04 and 25 more'):
        number_classes_(dataset, many, 'val', 'train')


def test_a_data_set_without_a_way_to_number():
    class Other(Dataset):
        metainfo = {'classes': ['b', 'a']}

    number_classes_(Other(), ('b', 'a'), 'val', 'train')
    with pytest.raises(ValueError, match=r'val: Other numbers its classes otherwise than train \(b, a against a, b\)'):
        number_classes_(Other(), ('a', 'b'), 'val', 'train')
    number_classes_(object(), ('a', 'b'), 'val', 'train')  # nothing is known of it


@pytest.mark.parametrize(
    ('classes', 'text'),
    [
        ('ship', r"classes must be a list of names, got 'ship'; a tuple of one name is written \('ship',\)"),
        ((1, 2), r'classes must be a list of names, got \(1, 2\)'),
        (('ship',), 'a classifier needs two classes or more, of different names, got ship'),
        ((), 'a classifier needs two classes or more, of different names, got none'),
        (('a', 'b', 'a'), 'a classifier needs two classes or more, of different names, got a, b, a'),
    ],
)
def test_names_that_are_none(tmp_path, classes, text):
    with pytest.raises(ValueError, match=f'InMemoryDataset: {text}'):
        InMemoryDataset(torch.zeros(2, 1, 2, 2), torch.tensor([0, 0]), classes)
    with pytest.raises(ValueError, match=f'ImageFolder: {text}'):
        ImageFolder('train', make(tmp_path, 'train', 'ship', 'boat'), classes=classes)


def test_names_that_the_user_gives(tmp_path):
    make(tmp_path, 'val', 'cat')
    dataset = ImageFolder('val', tmp_path, classes=['dog', 'cat', 'ant'], **SMALL)
    assert dataset.labels.tolist() == [1, 1]
    assert dataset.metainfo == {'classes': ('dog', 'cat', 'ant')}
    with pytest.raises(ValueError, match=r'has classes that are not in classes; only in the folder \(of 1\): cat'):
        ImageFolder('val', tmp_path, classes=['dog', 'ant'])
    with pytest.raises(ValueError, match=r'ImageFolder: .*two classes or more, got cat alone; name all of them by c'):
        ImageFolder('val', tmp_path)


def test_hidden_names_are_no_data(tmp_path):
    root = make(tmp_path, 'train', '.ipynb_checkpoints', '._ant', 'ant', 'bee')
    for name in ('.0.png', '._1.png', '.deep/2.png', 'deep/3.PNG'):
        path = root / 'train' / 'bee' / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((root / 'train' / 'ant' / '0.png').read_bytes())
    dataset = ImageFolder('train', root, **SMALL)
    assert dataset.metainfo == {'classes': ('ant', 'bee')}
    assert names(dataset) == [('ant', 'ant')] * 2 + [('bee', 'bee')] * 3
    assert dataset.path(4).name == '3.PNG'


def test_links_are_followed_once(tmp_path):
    root = make(tmp_path, 'train', 'ant', 'bee')
    outside = make(tmp_path, 'elsewhere', 'more', images=3) / 'elsewhere' / 'more'
    ant = root / 'train' / 'ant'
    for name, target in {'itself': ant, 'up': root / 'train', 'again': outside, 'more': outside}.items():
        (ant / name).symlink_to(target)
    (root / 'train' / 'loop').symlink_to(root / 'train')
    (root / 'train' / 'cat').symlink_to(outside)
    dataset = ImageFolder('train', root, **SMALL)
    assert dataset.metainfo == {'classes': ('ant', 'bee', 'cat')}
    assert dataset.labels.bincount().tolist() == [2 + 3, 2, 3]


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_own_photographs_have_their_own_name(tmp_path, split):
    with pytest.raises(FileNotFoundError, match=f'ImageFolder: {split} is missing, .* at {tmp_path}/{split};'):
        ImageFolder(split, tmp_path)
    assert len(ImageFolder(split, make(tmp_path, split, 'ant', 'bee'), num_samples=3)) == 3
