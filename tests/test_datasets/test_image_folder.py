import pickle
import shutil

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from pab.datasets import EpochSampler, ImageNet, SampleIndex, collate_images
from pab.registry import DATASETS

SMALL = {'size': 16, 'resize': 20}


def picture(seed):
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (24, 30, 3)).astype(np.uint8))


@pytest.fixture
def root(tmp_path):
    """imagenet/{train,val} with classes n01, n02 of four files each; pixels differ between files."""
    for split in ('train', 'val'):
        for label, name in enumerate(('n01', 'n02')):
            folder = tmp_path / 'imagenet' / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                picture(10 * label + number).save(folder / f'{name}_{number}.JPEG', 'JPEG')
    return tmp_path


def file_of(root, split, label, number):
    return root / 'imagenet' / split / f'n0{label + 1}' / f'n0{label + 1}_{number}.JPEG'


def test_classes_and_files_as_torchvision_finds_them(root):
    (root / 'imagenet' / 'val' / 'n01' / 'notes.txt').write_text('not an image')
    dataset = DATASETS.build({'type': 'ImageNet', 'split': 'val', 'data_root': str(root), **SMALL})
    found = ImageFolder(str(root / 'imagenet' / 'val'))
    assert [str(dataset.path(i)) for i in range(len(dataset))] == [path for path, _ in found.samples]
    assert dataset.labels.tolist() == found.targets == [0, 0, 0, 0, 1, 1, 1, 1]
    assert dataset.metainfo == {'classes': ('n01', 'n02')}


def test_images_equal_torchvisions(root):
    theirs = {
        'train': v2.Compose([v2.RandomResizedCrop(16, (0.08, 1), (3 / 4, 4 / 3)), v2.RandomHorizontalFlip()]),
        'val': v2.Compose([v2.Resize(20), v2.CenterCrop(16)]),
    }
    for split, transform in theirs.items():
        dataset = ImageNet(split, root, **SMALL)
        for index, (path, label) in enumerate(ImageFolder(str(root / 'imagenet' / split)).samples):
            torch.manual_seed(index)
            expected = transform(F.pil_to_tensor(Image.open(path).convert('RGB')))
            state = torch.get_rng_state()
            item = dataset[SampleIndex(index, seed=index)]
            assert torch.equal(torch.get_rng_state(), state)
            assert item['labels'] == label
            assert item['images'].dtype == torch.uint8
            assert torch.equal(item['images'], expected)


def test_environment_folder_and_subset(root, monkeypatch):
    monkeypatch.setenv('PAB_DATA', str(root))
    assert len(ImageNet()) == 8
    assert len(DATASETS.build(dict(type='ImageFolder', data_root=root / 'imagenet'))) == 8
    chosen = ImageNet(indices=[6, 1])
    assert chosen.labels.tolist() == [1, 0]
    assert chosen.path(0) == file_of(root, 'train', 1, 2)
    assert len(ImageNet(num_samples=3, sample_seed=0)) == 3


def loaded(dataset, num_workers, skip=0, epoch=3, persistent=False):
    sampler = EpochSampler(dataset, seed=1)
    sampler.set_epoch(epoch)
    options = dict(num_workers=num_workers, collate_fn=collate_images, persistent_workers=persistent)
    loader = DataLoader(dataset, 2, sampler=sampler, **options)
    if persistent:  # an earlier epoch in the same workers
        sampler.set_epoch(0)
        list(loader)
        sampler.set_epoch(epoch)
    sampler.skip(skip)
    return torch.cat([batch['images'] for batch in loader])


def test_training_images_depend_on_seed_epoch_and_index_only(root):
    dataset = ImageNet('train', root, **SMALL)
    whole = loaded(dataset, 0)
    assert torch.equal(whole, loaded(dataset, 2, persistent=True))
    assert torch.equal(whole[4:], loaded(dataset, 1, skip=4))
    assert not torch.equal(whole, loaded(dataset, 0, epoch=4))
    torch.rand(5)  # another state of the default generator changes nothing
    assert torch.equal(whole, loaded(dataset, 0))


def test_without_seeds_the_default_generator_decides(root):
    dataset = ImageNet('train', root, **SMALL)
    state = torch.get_rng_state()
    first = dataset[0]['images']
    assert not torch.equal(dataset[0]['images'], first)
    torch.set_rng_state(state)
    assert torch.equal(dataset[0]['images'], first)


def break_files(root, split, *which):
    for label, number in which:
        path = file_of(root, split, label, number)
        path.write_bytes(path.read_bytes()[:200])


@pytest.fixture
def messages(monkeypatch):
    """The lines that are logged from here on."""
    caught = []
    monkeypatch.setattr('pab.datasets.image_folder.print_log', lambda text, *args: caught.append(text))
    return caught


def test_training_goes_on_with_the_next_readable_file(root, messages):
    break_files(root, 'train', (0, 1), (0, 2), (1, 3))
    dataset = ImageNet('train', root, **SMALL)
    for broken, stand_in in ((1, 3), (2, 3), (7, 0)):
        torch.manual_seed(4)
        item = dataset[broken]
        torch.manual_seed(4)
        expected = dataset[stand_in]
        assert torch.equal(item['images'], expected['images'])
        assert item['labels'] == expected['labels']
    dataset[1]
    assert dataset.unreadable == [file_of(root, 'train', *which) for which in ((0, 1), (0, 2), (1, 3))]
    assert len(messages) == 3  # each file once
    assert str(file_of(root, 'train', 0, 1)) in messages[0]
    assert 'the next readable file stands in' in messages[0]
    assert '(3 such files so far)' in messages[2]


def test_validation_leaves_broken_files_out(root, messages):
    break_files(root, 'val', (1, 0))
    dataset = ImageNet('val', root, **SMALL)
    item = dataset[4]
    assert item['labels'] == -100
    assert item['images'].shape == (3, 16, 16) and not item['images'].any()
    assert dataset[5]['labels'] == 1
    assert 'it is left out' in messages[0]


def test_workers_report_what_they_found(root):
    break_files(root, 'train', (0, 1))
    file_of(root, 'train', 1, 1).unlink()
    dataset = ImageNet('train', root, **SMALL)
    file_of(root, 'train', 1, 2).write_bytes(b'')  # gone bad after the folder was listed
    assert len(loaded(dataset, 2)) == 7
    assert dataset.unreadable == [file_of(root, 'train', 0, 1), file_of(root, 'train', 1, 2)]
    restored = pickle.loads(pickle.dumps(dataset))
    assert len(restored) == 7


def test_the_log_names_the_file(root, tmp_path):
    logger = MMLogger.get_instance('broken images', logger_name='broken', log_file=str(tmp_path / 'run.log'))
    break_files(root, 'train', (0, 1))
    ImageNet('train', root, **SMALL)[1]
    for handler in logger.handlers:
        handler.flush()
    assert str(file_of(root, 'train', 0, 1)) in (tmp_path / 'run.log').read_text()


def test_too_many_unreadable_files_are_an_error(root, messages):
    for number in range(4, 20):
        shutil.copy(file_of(root, 'train', 0, 0), file_of(root, 'train', 0, number))
    break_files(root, 'train', *((0, number) for number in range(12)))
    strict, lenient = ImageNet('train', root, **SMALL), ImageNet('train', root, max_unreadable=0.5, **SMALL)
    for index in range(len(lenient)):
        lenient[index]
    assert len(lenient.unreadable) == 12
    with pytest.raises(RuntimeError, match=r'ImageNet: 11 of 24 files below .*, more than 10: .*max_unreadable'):
        [strict[index] for index in range(len(strict))]


@pytest.mark.parametrize('split', ['train', 'val'])
def test_nothing_readable_is_an_error(root, split):
    break_files(root, split, *((label, number) for label in range(2) for number in range(4)))
    dataset = ImageNet(split, root, **SMALL)
    with pytest.raises(RuntimeError, match='ImageNet: 8 of 8 files below'):
        [dataset[index] for index in range(8)]
    with pytest.raises(RuntimeError, match='ImageNet: 8 of 8 files below'):
        dataset[3]


def test_missing_and_empty_folders(tmp_path):
    split = tmp_path / 'imagenet' / 'val'
    with pytest.raises(FileNotFoundError, match=f'ImageNet: val is missing, looked for it at {split}'):
        ImageNet('val', tmp_path)
    for folder, text in ((split, 'class folder'), (split / 'n01', 'n01')):
        folder.mkdir(parents=True)
        with pytest.raises(ValueError, match=f'ImageNet: .* needs one folder of images for each class; .*{text}'):
            ImageNet('val', tmp_path)


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        ({'split': 'test'}, "unknown split 'test'; known: train, val"),
        ({'size': 0}, 'size must be an int >= 1, got 0'),
        ({'size': 300, 'resize': 256}, 'got size=300, resize=256'),
        ({'max_unreadable': 5}, r'max_unreadable is a share of the files in \[0, 1\], got 5'),
    ],
)
def test_bad_settings(root, options, text):
    with pytest.raises(ValueError, match=f'ImageNet: .*{text}'):
        ImageNet(data_root=root, **options)


def test_real_photographs_through_the_runners_loader(photographs):
    config = {
        'dataset': {'type': 'pab.ImageNet', 'data_root': str(photographs), 'num_samples': 64, 'sample_seed': 0},
        'sampler': {'type': 'pab.EpochSampler', 'shuffle': True},
        'collate_fn': {'type': 'collate_images'},
        'batch_size': 32,
        'num_workers': 2,
        'persistent_workers': True,
    }
    loader = Runner.build_dataloader(config, seed=0)
    batches = list(loader)
    assert [batch['images'].shape for batch in batches] == [(32, 3, 224, 224)] * 2
    assert batches[0]['images'].dtype == torch.uint8
    assert loader.dataset.unreadable == []
    mean = torch.cat([batch['images'] for batch in batches]).float().mean(dim=(0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor([0.485, 0.456, 0.406]), atol=0.06, rtol=0)
