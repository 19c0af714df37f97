import copy
import itertools

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from torch import Tensor, nn

from pab.datasets.in_memory import InMemoryDataset
from pab.hooks.guards.data_check import describe_input_shape
from pab.hooks.method.prune_to_file import prune_to_file
from pab.registry import DATASETS, MODELS, RUNNERS
from tests.small_run import small_config

RUNS = itertools.count()
COLOURS = {'ant': (230, 20, 20), 'bee': (20, 230, 20), 'cat': (20, 20, 230), 'dog': (230, 230, 20)}


@MODELS.register_module()
class MeanColour(nn.Module):
    """Knows the animals of COLOURS, in the order of their names, by their mean colour: (N, 3, H, W) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        colours = torch.tensor(list(COLOURS.values())) / 255
        with torch.no_grad():  # the nearest colour c has the largest c x - |c|^2 / 2
            self.linear.weight.copy_(colours)
            self.linear.bias.copy_(-colours.square().sum(1) / 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.mean((2, 3)))


@DATASETS.register_module()
class NamedImages(InMemoryDataset):
    """One grey image of 6 x 6 for each of ``num``, of the classes in turn, four where they have no names."""

    def __init__(self, classes, num: int = 8, channels: int = 1, side: int = 6) -> None:
        images = torch.zeros(num, channels, side, side, dtype=torch.uint8)
        self.num_classes = len(classes or 'abcd')
        super().__init__(images, torch.arange(num) % self.num_classes, classes)


def draw(root, split, *classes):
    for name in classes:
        (root / split / name).mkdir(parents=True)
        for number in range(3):
            colour = np.full((20, 20, 3), COLOURS.get(name, (0, 0, 0)), np.uint8)
            Image.fromarray(colour).save(root / split / name / f'{number}.png')
    return root


def animals(root, work_dir, **options) -> Config:
    """A run that leaves the weights of MeanColour as they are, on the folders below ``root``."""
    cfg = small_config(work_dir, experiment_name=f'animals_{next(RUNS)}')
    for name, split in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        dataset = dict(_delete_=True, type='ImageFolder', split=split, data_root=str(root), size=8, resize=8)
        cfg.merge_from_dict({f'{name}_dataloader': dict(batch_size=4, dataset=dataset)})
    cfg.merge_from_dict(
        dict(
            model=dict(network=dict(_delete_=True, type='MeanColour'), input_shape=(3, 8, 8), init=None),
            data_preprocessor=dict(mean=(0.0,) * 3, std=(1.0,) * 3),
            train_cfg=dict(max_epochs=1),
            optim_wrapper=dict(_delete_=True, optimizer=dict(type='SGD', lr=1e-9)),
            param_scheduler=None,
            default_hooks=dict(prune=None, ar_decay=None, flips=None),
        )
    )
    cfg.model.converter = None
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return cfg


def accuracy_of_test(cfg, checkpoint) -> float:
    cfg = copy.deepcopy(cfg)
    cfg.load_from, cfg.experiment_name = str(checkpoint), f'test_{next(RUNS)}'
    return RUNNERS.build(cfg).test()['accuracy/top1']


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The folder of all animals, and a checkpoint that knows them."""
    root = draw(tmp_path_factory.mktemp('all'), 'train', *COLOURS)
    draw(root, 'val', *COLOURS)
    work_dir = tmp_path_factory.mktemp('run')
    RUNNERS.build(animals(root, work_dir)).train()
    return root, work_dir / 'epoch_1.pth'


@pytest.mark.parametrize('topk', [1, 4])
def test_a_validation_without_one_class(tmp_path, topk):
    root = draw(tmp_path, 'train', *COLOURS, '.ipynb_checkpoints')
    draw(root, 'val', 'ant', 'cat', 'dog')
    cfg = animals(root, tmp_path / 'run', val_evaluator__topk=(1, topk), test_evaluator__topk=(1, topk))
    runner = RUNNERS.build(cfg)
    runner.train()
    assert runner.message_hub.get_info('best_score') == 100
    assert accuracy_of_test(cfg, tmp_path / 'run' / 'epoch_1.pth') == 100


def test_a_class_that_training_lacks(tmp_path):
    root = draw(tmp_path, 'train', 'ant', 'cat', 'dog')
    draw(root, 'val', *COLOURS)
    with pytest.raises(ValueError, match=r'val_dataloader: has classes .*only in val_dataloader \(of 4\): bee\); '):
        RUNNERS.build(animals(root, tmp_path / 'run')).train()
    assert not list((tmp_path / 'run').glob('*.pth'))


@pytest.mark.parametrize('missing', COLOURS)
def test_a_test_takes_the_classes_of_its_checkpoint(trained, tmp_path, missing):
    root = draw(tmp_path, 'val', *(COLOURS.keys() - {missing}))  # there is no train folder
    assert accuracy_of_test(animals(root, tmp_path / 'run'), trained[1]) == 100


def test_a_test_refuses_other_classes_than_its_checkpoint(trained, tmp_path):
    root = draw(tmp_path, 'val', *COLOURS, 'eel')
    text = r'test_dataloader: has classes that the checkpoint does not have \(only in test_dataloader \(of 5\): eel\);'
    with pytest.raises(ValueError, match=text):
        accuracy_of_test(animals(root, tmp_path / 'run'), trained[1])


def test_a_resume_refuses_a_training_set_without_a_class(trained, tmp_path):
    root = draw(draw(tmp_path, 'val', *COLOURS), 'train', 'ant', 'cat', 'dog')
    cfg = animals(root, tmp_path / 'run', resume=True, load_from=str(trained[1]), train_cfg__max_epochs=2)
    with pytest.raises(ValueError, match=r'resume: the training set .* only in the checkpoint \(of 4\): bee; resume'):
        RUNNERS.build(cfg).train()


def test_training_from_a_checkpoint_numbers_as_it_does(trained, tmp_path):
    root = draw(draw(tmp_path, 'val', 'dog', 'bee'), 'train', 'dog', 'bee')
    runner = RUNNERS.build(animals(root, tmp_path / 'run', load_from=str(trained[1])))
    runner.train()
    assert runner.message_hub.get_info('best_score') == 100
    assert runner.train_dataloader.dataset.metainfo['classes'] == tuple(COLOURS)


def test_training_from_a_checkpoint_of_other_classes_says_so(trained, tmp_path, caplog):
    root = draw(draw(tmp_path, 'val', 'ant', 'eel'), 'train', 'ant', 'eel')
    runner = RUNNERS.build(animals(root, tmp_path / 'run', load_from=str(trained[1])))
    told = []
    runner.logger.warning = told.append
    runner.train()
    assert 'learns other classes than those of the checkpoint it loads: only in train_dataloader (of 2): eel' in told[0]
    assert runner.train_dataloader.dataset.metainfo['classes'] == ('ant', 'eel')


def test_a_new_head_has_the_classes_of_the_training(trained, tmp_path):
    checkpoint = torch.load(trained[1])
    checkpoint['meta']['dataset_meta']['classes'] = ('ape', *COLOURS)
    state = checkpoint['state_dict']
    state['network.linear.weight'], state['network.linear.bias'] = torch.zeros(5, 3), torch.zeros(5)
    torch.save(checkpoint, tmp_path / 'five.pth')
    start = dict(load_from=str(tmp_path / 'five.pth'), new_head=True)
    runner = RUNNERS.build(animals(trained[0], tmp_path / 'run', **start))
    runner.train()  # a label of 4 would be refused
    assert runner.train_dataloader.dataset.metainfo['classes'] == tuple(COLOURS)
    assert runner.message_hub.get_info('best_score') == 100


def test_a_checkpoint_without_names_is_told(trained, tmp_path):
    checkpoint = torch.load(trained[1])
    del checkpoint['meta']['dataset_meta']
    torch.save(checkpoint, tmp_path / 'nameless.pth')
    runner = RUNNERS.build(animals(trained[0], tmp_path / 'run', load_from=str(tmp_path / 'nameless.pth')))
    told = []
    runner.logger.warning = told.append
    assert runner.test()['accuracy/top1'] == 100
    assert told == ['the checkpoint does not name its classes: test_dataloader numbers them by itself']


def test_a_checkpoint_that_only_numbers_its_classes(trained, tmp_path):
    checkpoint, file = torch.load(trained[1]), tmp_path / 'numbered.pth'
    checkpoint['meta']['dataset_meta']['classes'] = tuple('0123')
    torch.save(checkpoint, file)
    runner = RUNNERS.build(animals(trained[0], tmp_path / 'test', load_from=str(file)))
    told = []
    runner.logger.info = told.append
    assert runner.test()['accuracy/top1'] == 100
    assert 'The checkpoint only numbers its 4 classes: they get their names from test_dataloader' in told
    for resume in (False, True):
        runner = RUNNERS.build(animals(trained[0], tmp_path / f'run_{resume}', load_from=str(file), resume=resume))
        warned = []
        runner.logger.warning = warned.append
        runner.train()
        assert runner.message_hub.get_info('best_score') == 100
        assert not any('classes' in text for text in warned)
    root = draw(tmp_path, 'val', 'ant', 'bee', 'cat')  # another number
    with pytest.raises(ValueError, match=r'test_dataloader: has classes that the checkpoint does not have'):
        accuracy_of_test(animals(root, tmp_path / 'other'), file)


@pytest.mark.parametrize('loader', ['train_dataloader', 'val_dataloader'])
def test_a_sampler_without_an_end_is_refused(trained, tmp_path, loader):
    cfg = animals(trained[0], tmp_path / 'run', **{f'{loader}__sampler': dict(_delete_=True, type='InfiniteSampler')})
    with pytest.raises(ValueError, match=rf'{loader}.sampler: InfiniteSampler never ends an epoch'):
        RUNNERS.build(cfg).train()


def test_topk_beyond_the_classes_is_refused_before_training(trained, tmp_path):
    cfg = animals(trained[0], tmp_path / 'run', val_evaluator__topk=(1, 5))
    with pytest.raises(ValueError, match='Accuracy: topk must not exceed the number of classes, 4, got 5'):
        RUNNERS.build(cfg).train()
    assert not list((tmp_path / 'run').glob('*.pth'))


def images(tmp_path, **options):
    """The small run on NamedImages."""
    cfg = small_config(tmp_path / 'run', train_cfg__max_epochs=1, experiment_name=f'images_{next(RUNS)}')
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[name].dataset = dict(type='NamedImages', classes=['a', 'b', 'c', 'd'])
    cfg.default_hooks.prune = dict(type='PruneHook', pruner=dict(type='Mag', density=0.5, rounds=1))
    cfg.param_scheduler = None
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return cfg


@DATASETS.register_module()
class Pairs(torch.utils.data.Dataset):
    """Four images and labels as torchvision's data sets give them, or under other names."""

    def __init__(self, keys=None) -> None:
        self.keys = keys

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        pair = torch.zeros(1, 6, 6, dtype=torch.uint8), index % 4
        return dict(zip(self.keys, pair, strict=True)) if self.keys else pair


@pytest.mark.parametrize(('keys', 'got'), [(None, 'a tuple'), (['img', 'gt_label'], 'the keys img, gt_label')])
@pytest.mark.parametrize('part', ['train', 'val', 'test', 'prune'])
def test_items_that_are_no_dicts_of_images_and_labels(tmp_path, part, keys, got):
    name = 'train_dataloader' if part == 'prune' else f'{part}_dataloader'
    runner = RUNNERS.build(images(tmp_path, **{f'{name}__dataset': dict(_delete_=True, type='Pairs', keys=keys)}))
    text = rf'^{name}: items of Pairs must be dict\(images=.*, labels=int\), got {got}; return .*TorchvisionDataset'
    with pytest.raises(ValueError, match=text):
        if part == 'prune':
            prune_to_file(runner, tmp_path / 'pruned.pth')
        else:
            (runner.test if part == 'test' else runner.train)()


@pytest.mark.parametrize('part', ['train', 'val', 'test'])
def test_fewer_outputs_than_classes(tmp_path, part):
    """The network has four; the only image of the fifth class comes in the second batch."""
    more = {f'{part}_dataloader__dataset': dict(type='NamedImages', classes=list('abcde'), num=9)}
    if part == 'val':
        more['train_dataloader__dataset__classes'] = None  # else the fifth is refused by its name
    runner = RUNNERS.build(images(tmp_path, **more))
    text = rf'{part}_dataloader: has 5 classes, and the network 4 outputs; set num_classes'
    with pytest.raises(ValueError, match=text):
        runner.test() if part == 'test' else runner.train()
    assert not list(tmp_path.glob('**/*.pth'))


def test_fewer_outputs_than_classes_are_refused_before_a_pruning_to_a_file(tmp_path):
    runner = RUNNERS.build(images(tmp_path, train_dataloader__dataset__classes=list('abcde')))
    with pytest.raises(ValueError, match='train_dataloader: has 5 classes, and the network 4 outputs'):
        prune_to_file(runner, tmp_path / 'pruned.pth')
    assert not (tmp_path / 'pruned.pth').exists()


def test_class_weights_are_counted_before_training(tmp_path):
    runner = RUNNERS.build(images(tmp_path, model__class_weights=[1.0, 2.0]))
    with pytest.raises(ValueError, match=r'model.class_weights must have one number for each of the 4 outputs, got 2'):
        runner.train()
    assert not list(tmp_path.glob('**/*.pth'))


def test_classes_without_names_are_those_of_a_checkpoint_with_names(tmp_path):
    RUNNERS.build(images(tmp_path)).train()
    nameless = {f'{part}_dataloader__dataset__classes': None for part in ('train', 'val', 'test')}
    start = dict(load_from=str(tmp_path / 'run' / 'epoch_1.pth'), **nameless)
    RUNNERS.build(images(tmp_path, **start)).test()
    start.update(resume=True, train_cfg__max_epochs=2, default_hooks__resume_check__allow_changes=True)
    RUNNERS.build(images(tmp_path, **start)).train()
    checkpoint = str(tmp_path / 'run' / 'epoch_2.pth')
    RUNNERS.build(images(tmp_path, load_from=checkpoint)).test()  # names, and a checkpoint without


@pytest.mark.parametrize('shape', [(1, 6, 7), (1, 12, 12), (3, 6, 6)])
def test_images_of_another_shape_than_the_models(tmp_path, shape):
    text = rf'train_dataloader: images are \(1, 6, 6\) .* model\.input_shape is \({shape[0]}, {shape[1]}, {shape[2]}\)'
    with pytest.raises(ValueError, match=text):
        RUNNERS.build(images(tmp_path, model__input_shape=shape)).train()
    with pytest.raises(ValueError, match=text):
        prune_to_file(RUNNERS.build(images(tmp_path, model__input_shape=shape)), tmp_path / 'pruned.pth')
    assert not list(tmp_path.glob('**/*.pth'))


@pytest.mark.usefixtures('untraced')
def test_costs_are_those_of_the_images_where_these_can_be_read(tmp_path, tool):
    cfg = images(tmp_path, model__input_shape=(1, 12, 12))
    with pytest.raises(ValueError, match=r'train_dataloader: images are \(1, 6, 6\) .*input_shape is \(1, 12, 12\)'):
        describe_input_shape(cfg)
    cfg.model.input_shape = None
    with pytest.raises(ValueError, match=r'model.input_shape: costs need the \(channels, height, width\)'):
        describe_input_shape(cfg)
    cfg = images(tmp_path)
    assert describe_input_shape(cfg) == 'for one image of 1 x 6 x 6 (model.input_shape), as in train_dataloader'
    cfg.train_dataloader.dataset = dict(type='CIFAR10', data_root=str(tmp_path), download=True)  # which is not done
    text = 'for one image of 1 x 6 x 6 (model.input_shape); train_dataloader, which it was not compared with, cannot be'
    assert describe_input_shape(cfg).startswith(text)
    cfg.dump(tmp_path / 'config.py')
    assert text in tool('analyze.py', tmp_path / 'config.py')[0]
    cfg = images(tmp_path, model__input_shape=(1, 7, 6))
    cfg.dump(tmp_path / 'config.py')
    assert 'images are (1, 6, 6)' in tool('analyze.py', tmp_path / 'config.py')[1]


def test_evaluation_may_have_larger_images_but_no_other_channels(tmp_path):
    RUNNERS.build(images(tmp_path, val_dataloader__dataset__side=9)).train()
    cfg = images(tmp_path, test_dataloader__dataset__channels=3, data_preprocessor__mean=(0.3,) * 3)
    cfg.merge_from_dict({'data_preprocessor.std': (0.3,) * 3})
    with pytest.raises(
        ValueError, match=r'test_dataloader: images are \(3, 6, 6\) .* model\.input_shape is \(1, 6, 6\)'
    ):
        RUNNERS.build(cfg).test()


@MODELS.register_module()
class Squeezing(nn.Module):
    """Batch norm of maps of (height of an image - 5) pixels a side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.linear = nn.Conv2d(1, 4, 6), nn.BatchNorm2d(4), nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.bn(self.conv(images)).mean((2, 3)))


@pytest.mark.parametrize(
    ('side', 'num', 'batch_size', 'drop_last', 'refused'),
    [
        (6, 9, 4, False, 'drop_last=True'),  # the last batch is one image, its map 1 x 1
        (6, 9, 8, False, 'drop_last=True'),
        (6, 8, 1, True, 'raise batch_size'),  # every batch is
        (6, 9, 4, True, None),
        (6, 8, 4, False, None),
        (6, 10, 4, False, None),
        (7, 9, 4, False, None),  # 2 x 2 values are enough
        (7, 8, 1, False, None),
    ],
)
def test_a_last_batch_of_one_image(tmp_path, side, num, batch_size, drop_last, refused):
    cfg = images(
        tmp_path,
        model__network__type='Squeezing',
        model__input_shape=(1, side, side),
        train_dataloader__batch_size=batch_size,
        train_dataloader__drop_last=drop_last,
        **{f'{part}_dataloader__dataset__side': side for part in ('train', 'val', 'test')},
        train_dataloader__dataset__num=num,
    )
    runner = RUNNERS.build(cfg)
    if refused is None:
        runner.train()
        return
    with pytest.raises(ValueError, match=rf'train_dataloader: the last of {num} images .* cannot train; .*{refused}'):
        runner.train()
    assert runner.iter == 0
    assert int(runner.model.network.bn.num_batches_tracked) == 0
