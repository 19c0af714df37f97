"""What a config leaves to its data: the word 'auto' for it."""

from collections.abc import Callable, Mapping
from typing import Any

from mmengine.config import Config

from ..registry import DATASETS
from .classes import count_classes
from .sampler import class_counts

AUTO, BALANCED = 'auto', 'balanced'
SETTLED = ('size', 'grey', 'in_channels', 'num_classes')  # keys that may be 'auto'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def settle_auto(cfg: Config, classes: int | None = None) -> None:
    """Replace 'auto' in a config, in place, wherever it is the value of one of these keys, at any depth of its group.

    ==================================================  ========================================================
    ``size``, ``grey`` of data                          as ``model.input_shape`` says: (1 or 3, size, size); for data
                                                        with ``transforms``, which ignore it, the longer side
    ``in_channels`` in ``model``                        as ``model.input_shape`` says
    ``num_classes`` in ``model``, ``data_preprocessor``  the number of classes of the training data
    ``model.class_weights``, 'balanced'                 n / (K n_k) of a class with n_k of all n training images, of K
                                                        classes: images of a rare class count for more in the loss;
                                                        1 for a class without images
    ==================================================  ========================================================

    Args:
        cfg: of a run.
        classes: their number in a network that is trained, which the training data of today need not have; its class
            weights are then None, for only a training uses them.

    Raises:
        FileNotFoundError: the training data are not there, and ``classes`` is None.
        ValueError: ``input_shape`` is no square and data have no ``transforms``, or the training data don't name their
            classes.
    """
    model, shape = cfg.get('model') or {}, (cfg.get('model') or {}).get('input_shape')
    of_shape = {
        'in_channels': lambda _: _shape(shape)[0],
        'size': lambda data: _side(shape, data),
        'grey': lambda _: _shape(shape)[0] == 1,
    }
    for group in ('model', *LOADERS):
        _replace(cfg.get(group), AUTO, of_shape)
    if not asks_data(cfg):
        return
    balanced = model.get('class_weights') == BALANCED
    weights, number = None, classes
    if number is None:
        dataset = DATASETS.build(cfg['train_dataloader']['dataset'].copy())
        number = count_classes(dataset)
        weights = _class_weights(dataset, number or 0) if balanced else None
    if not number:
        raise ValueError(
            f"num_classes='auto': the training data, {type(dataset).__name__}, name no classes in metainfo['classes']; "
            'write the number'
        )
    for group in ('model', 'data_preprocessor'):
        _replace(cfg.get(group), AUTO, {'num_classes': lambda _: number})
    if balanced:
        model['class_weights'] = weights


def asks_data(cfg: Config) -> bool:
    """Tell if a config leaves the number of classes, or their weights, to the training data."""
    needed = [(cfg.get('model') or {}).get('class_weights') == BALANCED]
    for group in ('model', 'data_preprocessor'):
        _replace(cfg.get(group), AUTO, {'num_classes': lambda _: needed.append(True) or AUTO})
    return any(needed)


def _replace(group: Any, old: str, values: Mapping[str, Callable[[Any], Any]]) -> None:
    for key, value in list(group.items() if isinstance(group, Mapping) else enumerate(group or ())):
        if isinstance(value, str) and value == old and key in values:
            group[key] = values[key](group)
        elif isinstance(value, Mapping | list):
            _replace(value, old, values)


def _shape(shape: Any) -> Any:
    if not isinstance(shape, list | tuple) or len(shape) != 3:
        raise ValueError(f"'auto': model.input_shape must be (C, H, W), got {shape!r}")
    return shape


def _side(shape: Any, data: Mapping) -> int:
    height, width = _shape(shape)[1:]
    if height != width and not data.get('transforms'):  # which replace the square crop
        raise ValueError(
            f"size='auto': crops are squares, and model.input_shape is {tuple(shape)}; take (C, size, size), or give "
            f"every data set transforms that end in this shape: [dict(type='Resize', size=[{height}, {width}])]"
        )
    return max(height, width)


def _class_weights(dataset: Any, number: int) -> list[float]:
    labels = getattr(dataset, 'labels', None)
    if labels is None:
        raise ValueError(f"class_weights='balanced': {type(dataset).__name__} has no labels (N,); write the weights")
    counts = class_counts(labels, number)
    total, present = sum(counts), sum(count > 0 for count in counts)
    return [round(total / (present * count), 6) if count else 1.0 for count in counts]
