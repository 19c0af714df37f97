"""torchvision's transforms (``torchvision.transforms.v2``) by their names, as a config lists them.

Each is a dict of its name and its arguments, ``dict(type='RandomResizedCrop', size=64)``. ``transforms`` of
RandomApply, RandomChoice and RandomOrder is such a list, too. Names stand for what plain data cannot hold:
``dtype='float32'``, ``interpolation='bicubic'``, ``policy='cifar10'``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchvision.transforms import InterpolationMode, v2

from .registry import TRANSFORMS

for _name, _class in vars(v2).items():
    if isinstance(_class, type) and issubclass(_class, v2.Transform) and _class is not v2.Transform:
        TRANSFORMS.register_module(_name, module=_class)

OF_BATCHES = (v2.MixUp, v2.CutMix)


def build_transforms(owner: str, configs: Sequence[Mapping], num_classes: int | None = None) -> v2.Compose:
    """Build transforms that are applied one after the other.

    Args:
        owner: whose they are, for messages.
        configs: a list of dicts with a ``type``; one or more.
        num_classes: given to MixUp and CutMix, which turn labels (N,) to probabilities (N, num_classes).

    Raises:
        ValueError: it is no such list, a transform refuses its arguments, or MixUp and CutMix have no ``num_classes``.
        KeyError: torchvision has no such transform.
    """
    is_list = isinstance(configs, Sequence) and not isinstance(configs, str)
    if not is_list or not configs or not all(isinstance(config, Mapping) and 'type' in config for config in configs):
        rule = "transforms must be a list of dicts such as dict(type='RandomResizedCrop', size=64)"
        raise ValueError(f'{owner}: {rule}, got {configs!r}')
    return v2.Compose([_build(owner, config, num_classes) for config in configs])


def _build(owner: str, config: Mapping, num_classes: int | None) -> v2.Transform:
    kind = TRANSFORMS.get(config['type'])
    given = {key: value for key, value in config.items() if key != 'type'}
    refused = f'{owner}: transform {config["type"]} refuses {given}'
    try:
        settings = {key: _value(owner, key, value, num_classes) for key, value in given.items()}
    except (AttributeError, ValueError) as error:
        raise ValueError(f'{refused}: {error}') from error
    if kind in OF_BATCHES and settings.setdefault('num_classes', num_classes) is None:
        raise ValueError(
            f'{owner}: {kind.__name__} mixes the images of a batch and needs num_classes; list it in batch_transforms '
            'of the data_preprocessor, and set num_classes there'
        )
    try:
        return kind(**settings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f'{refused}: {" ".join(str(error).split())}') from error


def _value(owner: str, key: str, value: Any, num_classes: int | None) -> Any:
    if (
        isinstance(value, list | tuple)
        and value
        and all(isinstance(item, Mapping) and 'type' in item for item in value)
    ):
        return [_build(owner, item, num_classes) for item in value]
    if isinstance(value, str) and key == 'dtype':
        return getattr(torch, value)
    if isinstance(value, str) and key == 'interpolation':
        return InterpolationMode(value)
    if isinstance(value, str) and key == 'policy':
        return v2.AutoAugmentPolicy(value)
    return value
