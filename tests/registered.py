"""Contents of the registries, for tests of every member: a class is tested by being registered."""

import inspect
from importlib.util import find_spec

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import nn

from pab.models import initialize_
from pab.optim import Moves, SignOptimizer
from pab.registry import CONVERTERS, MODELS, OPTIMIZERS, PRUNERS

REQUIRED = {'density': 0.3}  # a value for each argument without a default, by its name
NETWORKS = {  # small networks of every kind of block: config, and how much narrower its layers are built then
    'CIFARResNet': (dict(type='CIFARResNet', depth=8, width=4), 1),
    'bottlenecks': (dict(type='CIFARResNet', depth=50), 8),
    'CIFARVGG': (dict(type='CIFARVGG', depth=11), 16),
    'ConvNet': (dict(type='ConvNet', depth=2, image_size=16), 8),
    'TorchvisionModel': (dict(type='TorchvisionModel', name='resnet18'), 16),
    'groups': (dict(type='TorchvisionModel', name='resnext50_32x4d'), 8),
    'WideResNet': (dict(type='WideResNet', depth=10, widen_factor=1), 2),
}
MISSING = {'CompactNetwork'}  # whichever network a file holds
if find_spec('timm'):
    NETWORKS['TimmModel'] = (dict(type='TimmModel', name='resnet18'), 16)
else:
    MISSING.add('TimmModel')


def members(registry) -> dict:
    """Name -> class, of pab's own in a registry; other tests register classes of theirs."""
    registry.import_from_location()
    return {name: cls for name, cls in sorted(registry.module_dict.items()) if cls.__module__.startswith('pab.')}


def config(name: str, cls: type, **others) -> dict:
    """The shortest config of a registered class."""
    arguments = inspect.signature(cls).parameters.values()
    needed = [p for p in arguments if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    unknown = [p.name for p in needed if p.name not in REQUIRED and p.name != 'params']
    assert not unknown, f'{name}: give REQUIRED in {__name__} a value for {unknown}'
    return {'type': name, **{p.name: REQUIRED[p.name] for p in needed if p.name in REQUIRED}, **others}


SIGN_OPTIMIZERS = {name: cls for name, cls in members(OPTIMIZERS).items() if issubclass(cls, SignOptimizer)}


class _Still(Moves):
    """Moves as an optimizer that flips signs alone, which needs no masks; tests of its own move weights."""

    def __init__(self, params, flip_share=3e-3, move_share=0.0, **settings):
        super().__init__(params, flip_share=flip_share, move_share=move_share, **settings)


_Still.__name__ = 'Moves'
SIGN_OPTIMIZERS['Moves'] = _Still
ALL_PRUNERS = members(PRUNERS)
ALL_CONVERTERS = members(CONVERTERS)
ALL_NETWORKS = {
    name: cls
    for name, cls in members(MODELS).items()
    if not (inspect.isclass(cls) and issubclass(cls, BaseModel | BaseDataPreprocessor)) and name not in MISSING
}


def slim(layer: nn.Module, factor: int, num_classes: int) -> nn.Module:
    """The same layer with 1 / ``factor`` of its channels and groups; images keep 3 channels, logits their number."""

    def part(channels: int) -> int:
        return channels if channels in (1, 3, num_classes) else channels // factor

    bias = getattr(layer, 'bias', None) is not None
    if isinstance(layer, nn.Conv2d):
        geometry = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, part(layer.groups), bias)
        return nn.Conv2d(part(layer.in_channels), part(layer.out_channels), *geometry)
    if isinstance(layer, nn.Linear):
        return nn.Linear(part(layer.in_features), part(layer.out_features), bias)
    # the statistics of one batch must do: averaged over the first steps, they let the deepest networks overflow
    return nn.BatchNorm2d(part(layer.num_features), momentum=1.0)


def small_network(name: str) -> nn.Module:
    """One of NETWORKS, (N, 3, H, W) -> (N, 7), with its initial weights; its large layers never exist."""
    config, factor = NETWORKS[name]
    with torch.device('meta'):
        network = MODELS.build({**config, 'num_classes': 7})
    for name, layer in list(network.named_modules()):
        if any(True for _ in layer.parameters(recurse=False)):
            network.set_submodule(name, slim(layer, factor, num_classes=7))
    return initialize_(network)
