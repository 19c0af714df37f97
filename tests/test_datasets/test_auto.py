"""What a config leaves to its data."""

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from pab.checks import check_ints
from pab.datasets import settle_auto
from pab.registry import DATASETS


@DATASETS.register_module()
class Nameless(torch.utils.data.Dataset):
    """Two images of classes that have no names."""

    def __init__(self, split='train'):
        pass

    def __len__(self):
        return 2


@pytest.fixture
def photos(tmp_path):
    for name, count in (('ant', 1), ('bee', 3), ('cat', 4)):
        (tmp_path / 'train' / name).mkdir(parents=True)
        for number in range(count):
            Image.new('RGB', (9, 9)).save(tmp_path / 'train' / name / f'{number}.png')
    return tmp_path


def config(root, **model) -> Config:
    loader = dict(dataset=dict(type='ImageFolder', data_root=str(root), size='auto', grey='auto'))
    network = dict(type='TorchvisionModel', name='resnet18', num_classes='auto', in_channels='auto')
    return Config(
        dict(
            model=dict(network=network, input_shape=(1, 8, 8), **model),
            data_preprocessor=dict(num_classes='auto', mean=[0.5]),
            train_dataloader=loader,
            val_dataloader=loader,
        )
    )


def test_each_value(photos):
    cfg = config(photos, class_weights='balanced')
    settle_auto(cfg)
    assert (cfg.model.network.num_classes, cfg.model.network.in_channels) == (3, 1)
    assert cfg.data_preprocessor.num_classes == 3
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert (loader.dataset.size, loader.dataset.grey) == (8, True)
    # 8 images of 3 classes
    assert cfg.model.class_weights == pytest.approx([8 / (3 * 1), 8 / (3 * 3), 8 / (3 * 4)], abs=1e-6)
    before = cfg.to_dict()
    settle_auto(cfg)
    assert cfg.to_dict() == before


def test_a_class_without_images_weighs_one(photos):
    cfg = config(photos, class_weights='balanced')
    cfg.train_dataloader.dataset.classes = ['ant', 'bee', 'cat', 'dog', 'elk']
    settle_auto(cfg)
    assert cfg.model.network.num_classes == 5
    assert cfg.model.class_weights == pytest.approx([8 / 3, 8 / 9, 8 / 12, 1, 1], abs=1e-6)


def test_a_given_number_stands_in_for_that_of_the_data(photos, tmp_path):
    for cfg in (config(tmp_path / 'nowhere'), config(tmp_path / 'nowhere', class_weights='balanced')):
        with pytest.raises(FileNotFoundError, match='ImageFolder: train is missing, looked for it at'):
            settle_auto(cfg)
        settle_auto(cfg, classes=5)
        assert cfg.model.network.num_classes == 5
        assert cfg.model.get('class_weights') is None
    cfg = config(photos)
    settle_auto(cfg, classes=5)
    assert cfg.model.network.num_classes == 5  # a class that was trained need not have images any more


def test_configs_that_leave_nothing_open_need_no_data():
    cfg = Config(dict(model=dict(network=dict(num_classes=4)), train_dataloader=dict(dataset=dict(type='ImageFolder'))))
    settle_auto(cfg)
    assert cfg.model.network.num_classes == 4
    settle_auto(Config({}))


def test_images_that_are_no_squares_come_from_transforms(photos):
    cfg = config(photos)
    cfg.model.input_shape = (3, 8, 12)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.transforms = [dict(type='Resize', size=[8, 12])]
    settle_auto(cfg)
    assert DATASETS.build(cfg.train_dataloader.dataset)[0]['images'].shape == (3, 8, 12)


def test_what_the_data_do_not_say(photos):
    cfg = config(photos)
    cfg.model.input_shape = (3, 8, 9)
    rule = r"size='auto': crops are squares, and model.input_shape is \(3, 8, 9\); take .*'Resize', size=\[8, 9\]"
    with pytest.raises(ValueError, match=rule):
        settle_auto(cfg)
    for model, message in (
        ({}, 'Nameless, name no classes'),
        (dict(class_weights='balanced'), 'Nameless has no labels'),
    ):
        cfg = config(photos, **model)
        cfg.train_dataloader = dict(dataset=dict(type='Nameless'))
        with pytest.raises(ValueError, match=message):
            settle_auto(cfg)
    cfg = config(photos)
    cfg.model.input_shape = None
    with pytest.raises(ValueError, match=r"'auto': model.input_shape must be \(C, H, W\), got None"):
        settle_auto(cfg)


def test_a_number_that_is_left_to_data_that_are_missing():
    with pytest.raises(
        ValueError, match=r"must be .*'auto'.*point PAB_DATA to the data, which say it, or give a number"
    ):
        check_ints('Net', num_classes='auto')
