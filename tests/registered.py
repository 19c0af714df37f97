"""What the registries hold, for tests of every member: a class is tested by being registered."""

import inspect

from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import nn

from pab.models import initialize_
from pab.optim import SignOptimizer
from pab.registry import CONVERTERS, MODELS, OPTIMIZERS, PRUNERS
from tests.test_models.test_zoo import build

REQUIRED = {'density': 0.3}  # a value for each argument without a default, by its name
NETWORKS = {  # arguments that make each network small, and how much narrower its layers are built then
    'CIFARResNet': (dict(depth=8, width=4), 1),
    'CIFARVGG': (dict(depth=11), 16),
    'ConvNet': (dict(depth=2, image_size=16), 8),
    'TorchvisionModel': (dict(name='resnet18'), 16),
    'WideResNet': (dict(depth=10, widen_factor=1), 2),
}


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
ALL_PRUNERS = members(PRUNERS)
ALL_CONVERTERS = members(CONVERTERS)
ALL_NETWORKS = {
    name: cls
    for name, cls in members(MODELS).items()
    if not (inspect.isclass(cls) and issubclass(cls, BaseModel | BaseDataPreprocessor))
    and name != 'CompactNetwork'  # whichever network a file holds
}


def small_network(name: str) -> nn.Module:
    """A small network of a registered kind, (N, 3, H, W) -> (N, 7), with its initial weights."""
    settings, factor = NETWORKS[name]
    return initialize_(build({'type': name, **settings}, factor))
