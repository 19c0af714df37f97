"""The data of a run against its network, before the first step."""

import copy
from collections.abc import Mapping
from types import SimpleNamespace

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader

from ...datasets import class_names, classes_in, count_classes, difference, names_for, number_classes_
from ...models import ImagePreprocessor, network_of
from ...registry import HOOKS, MODELS
from ...run import PabRunner, RunHook
from ...run.distributed import check_agreement


@HOOKS.register_module()
class DataCheckHook(RunHook):
    """Number classes by name in all data of a run, and refuse data that do not fit the network, before it begins.

    The classes are those of the checkpoint that the run loads, else those of the training data. Every run has this
    hook. A metric that depends on the number of classes may have a method ``check_classes(number)``, which raises.

    Raises:
        ValueError: from a run, when a data set has a class that the network does not know, a resumed training set has
            other classes than before, processes have other data, images are not of ``model.input_shape`` (data that are
            only evaluated may differ in height and width), the network has fewer outputs than there are classes, or
            the last batch of an epoch is too small for batch norm.
    """

    changes_training = False
    priority = 'VERY_HIGH'  # before anything prunes

    def __init__(self) -> None:
        self._classes: tuple[str, ...] | None = None
        self._whose, self._checked = '', set()

    def check_resume(self, runner: PabRunner, checkpoint: dict) -> None:
        """Refuse to go on with other classes."""
        before, own = classes_in(checkpoint), class_names(runner.train_dataloader.dataset)
        if before and own and set(names_for(before, own)) != set(own):
            told = difference(own, before, 'train_dataloader', 'the checkpoint')
            raise ValueError(
                f'resume: the training set has other classes than the checkpoint was trained with: {told}; resume '
                'with the same data, or start anew in another --work-dir'
            )

    def after_load_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        self._classes, self._whose = classes_in(checkpoint), 'the checkpoint'

    def before_train(self, runner: PabRunner) -> None:
        """Check the training data, and those of the validation."""
        loader, own = runner.train_dataloader, class_names(runner.train_dataloader.dataset)
        check_sampler(loader, 'train_dataloader')
        check_data_agree(loader, 'train_dataloader')
        check_items(runner.bare_model, loader, 'train_dataloader')
        self._name(runner, own, 'train_dataloader')
        if self._classes and own and not set(own) <= set(self._classes):
            told = difference(own, self._classes, 'train_dataloader', 'the checkpoint')
            runner.logger.warning(f'The network learns other classes than those of the checkpoint it loads: {told}')
            self._classes = None
        if self._classes is None:
            self._classes, self._whose = own, 'train_dataloader'
        self._number(runner, loader, 'train_dataloader')
        check_input_shape(runner.bare_model, loader, 'train_dataloader')
        check_outputs(runner.bare_model, loader, 'train_dataloader')
        check_last_batch(runner.bare_model, loader, runner.world_size)
        if runner.val_loop is not None:
            self.before_val(runner)

    def before_val(self, runner: PabRunner) -> None:
        self._check_evaluation(runner, runner.val_loop, 'val_dataloader')

    def before_test(self, runner: PabRunner) -> None:
        self._check_evaluation(runner, runner.test_loop, 'test_dataloader')

    def _check_evaluation(self, runner: PabRunner, loop, who: str) -> None:
        if who in self._checked:
            return
        self._checked.add(who)
        check_sampler(loop.dataloader, who)
        check_data_agree(loop.dataloader, who)
        check_items(runner.bare_model, loop.dataloader, who)
        self._name(runner, class_names(loop.dataloader.dataset), who)
        self._number(runner, loop.dataloader, who)
        check_input_shape(runner.bare_model, loop.dataloader, who, channels_only=True)
        check_outputs(runner.bare_model, loop.dataloader, who)
        if number := count_classes(loop.dataloader.dataset):
            for metric in loop.evaluator.metrics:
                if hasattr(metric, 'check_classes'):
                    metric.check_classes(number)

    def _name(self, runner: PabRunner, own: tuple[str, ...] | None, who: str) -> None:
        """Take the names of the data where a checkpoint has none."""
        if self._classes and self._whose == 'the checkpoint' and names_for(self._classes, own) != self._classes:
            runner.logger.info(f'The checkpoint only numbers its {len(own)} classes: they get their names from {who}')
            self._classes = own

    def _number(self, runner: PabRunner, loader: DataLoader, who: str) -> None:
        before = class_names(loader.dataset)
        if self._classes is None:
            if before and self._whose:
                runner.logger.warning(f'{self._whose} does not name its classes: {who} numbers them by itself')
            return
        number_classes_(loader.dataset, self._classes, who, self._whose)
        if before and before != self._classes:
            known = f'the {len(self._classes)} classes of {self._whose}'
            runner.logger.info(f'{who}: {len(before)} of {known}, numbered as there')


def check_sampler(loader: DataLoader, who: str) -> None:
    """Refuse a sampler that never ends, in whose epochs steps have no end either."""
    if isinstance(loader.sampler, InfiniteSampler):
        raise ValueError(f'{who}.sampler: InfiniteSampler never ends an epoch; take DefaultSampler')


def check_data_agree(loader: DataLoader, who: str) -> None:
    """Raise a ValueError if processes have different numbers of images or batches, or different classes."""
    facts = {'images': len(loader.dataset), 'batches': len(loader), 'classes': class_names(loader.dataset)}
    check_agreement({f'{who}: {name}': value for name, value in facts.items()})


def check_items(model: nn.Module, loader: DataLoader, who: str) -> None:
    """Raise a ValueError, which begins with ``who``, unless a loader's items are dicts that the model's part can read.

    ``ImagePreprocessor`` reads images and labels; of another one only a dict is asked.
    """
    with torch.random.fork_rng():
        item = loader.dataset[0]
    needed = {'images', 'labels'} if isinstance(model.data_preprocessor, ImagePreprocessor) else set()
    if not isinstance(item, Mapping) or not needed <= item.keys():
        got = f'the keys {", ".join(map(str, item))}' if isinstance(item, Mapping) else f'a {type(item).__name__}'
        raise ValueError(
            f'{who}: items of {type(loader.dataset).__name__} must be dict(images=(C, H, W) uint8, labels=int), got '
            f"{got}; return such a dict, or take a data set of torchvision by type='TorchvisionDataset' and its name"
        )


def check_input_shape(model: nn.Module, loader: DataLoader, who: str, channels_only: bool = False) -> None:
    """Raise a ValueError, which begins with ``who``, unless a loader's images are of the model's ``input_shape``.

    A model without one fits everything.
    """
    shape = getattr(model, 'input_shape', None)
    if shape is None:
        return
    got = tuple(_first_image(model, loader).shape[1:])
    if got[:1] != tuple(shape)[:1] or not (channels_only or got == tuple(shape)):
        raise ValueError(
            f'{who}: images are {got} (channels, height, width), and model.input_shape is {tuple(shape)}; set it to '
            'the shape of the images, or give the data that the network is for'
        )


def check_outputs(model: nn.Module, loader: DataLoader, who: str) -> None:
    """Raise a ValueError if a network has fewer outputs than a loader's data have classes, or not one for each weight.

    Data that do not know the number of their classes (:func:`pab.datasets.count_classes`), and a network whose outputs
    are no logits (N, K), fit everything.
    """
    number, network = count_classes(loader.dataset), network_of(model)
    if number is None:
        return
    modes = [(layer, layer.training) for layer in network.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng():
            logits = network.eval().forward(_first_image(model, loader))
    finally:
        for layer, training in modes:
            layer.training = training
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        return
    if logits.shape[1] < number:
        raise ValueError(
            f'{who}: has {number} classes, and the network {logits.shape[1]} outputs; set num_classes of the network '
            f'(model.network) to {number}, or give the data that it is for'
        )
    weights = getattr(model, 'class_weights', None)
    if weights is not None and len(weights) != logits.shape[1]:
        raise ValueError(
            f'model.class_weights must have one number for each of the {logits.shape[1]} outputs, got {len(weights)}'
        )


def describe_input_shape(cfg: Mapping) -> str:
    """Compare a config's ``model.input_shape`` with its training images, where they can be read; nothing is fetched.

    Returns one line: the shape, and with what it was compared, or why with nothing.

    Raises:
        ValueError: the config has no input_shape, or the images are of another.
    """
    shape = cfg['model'].get('input_shape')
    if shape is None:
        raise ValueError('model.input_shape: costs need the (channels, height, width) of one image, got None')
    if not isinstance(shape, list | tuple) or len(shape) != 3:
        raise ValueError(f'model.input_shape must be (channels, height, width), got {shape!r}')
    line = f'for one image of {" x ".join(map(str, shape))} (model.input_shape)'
    settings = copy.deepcopy(dict(cfg['train_dataloader']))
    settings.update(num_workers=0, persistent_workers=False, prefetch_factor=None)
    if settings['dataset'].get('download'):
        settings['dataset'].update(download=False)
    try:
        with torch.random.fork_rng(), DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'pab')):
            loader = PabRunner.build_dataloader(settings)
        preprocess = MODELS.build(copy.deepcopy(cfg.get('data_preprocessor') or cfg['model']['data_preprocessor']))
        model = SimpleNamespace(input_shape=tuple(shape), data_preprocessor=preprocess)
        _first_image(model, loader)
    except (OSError, ImportError, ValueError) as error:
        return f'{line}; train_dataloader, which it was not compared with, cannot be read here: {error}'
    check_input_shape(model, loader, 'train_dataloader')
    return f'{line}, as in train_dataloader'


def check_last_batch(model: nn.Module, loader: DataLoader, world_size: int = 1) -> None:
    """Raise a ValueError if an epoch ends in a batch of one image that batch norm would refuse.

    Torch's batch norm needs two values of a channel, which one image has while its map is larger than 1 x 1. So a copy
    of the network is tried. Where batch norm is synchronised, other processes give the values.
    """
    batches, network = loader.batch_sampler, network_of(model)
    if not isinstance(batches, BatchSampler):
        return
    images, size = len(batches.sampler), batches.batch_size
    single = size == 1 or (images % size == 1 and not batches.drop_last)
    synchronised = world_size > 1 and any(isinstance(layer, nn.SyncBatchNorm) for layer in network.modules())
    if not single or synchronised:
        return
    image = _first_image(model, loader)
    try:
        with torch.no_grad(), torch.random.fork_rng():
            copy.deepcopy(network).train().forward(image)
    except ValueError as error:
        if 'more than 1 value per channel' not in str(error):
            raise
        way_out = 'raise batch_size' if size == 1 else 'set train_dataloader.drop_last=True, or another batch_size'
        raise ValueError(
            f'train_dataloader: the last of {images} images (batch_size {size}) is a batch of its own, in which batch '
            f'norm has one value per channel and cannot train; {way_out}'
        ) from error


def _first_image(model: nn.Module, loader: DataLoader) -> Tensor:
    """Return the first image of a loader's data set as the network sees it, (1, C, H, W)."""
    with torch.random.fork_rng():  # a data set may crop at random, and the run's draws must not depend on the check
        batch = loader.collate_fn([loader.dataset[0]])
        return model.data_preprocessor(batch, False)['images']
