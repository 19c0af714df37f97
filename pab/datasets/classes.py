"""Classes are known by their names: data sets that go together number them alike, or are refused."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import some


class NamedClasses:
    """Part of a data set whose ``labels`` (N,) are positions in ``metainfo['classes']``, negative ones no class."""

    labels: Tensor
    metainfo: dict[str, Any]

    def number_classes(self, classes: Sequence[str]) -> None:
        """Number the classes as ``classes`` does, which has each of their names and may have more."""
        table = torch.tensor([classes.index(name) for name in self.metainfo['classes']], device=self.labels.device)
        self.labels = torch.where(self.labels < 0, self.labels, table[self.labels.clamp(min=0)])
        self.metainfo['classes'] = tuple(classes)  # in the dict, which evaluators share


def check_class_names(owner: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of two or more classes; ValueError naming ``owner`` for a string, one class, or equal names."""
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        hint = f'; a tuple of one name is written ({classes!r},)' if isinstance(classes, str) else ''
        raise ValueError(f'{owner}: classes must be a list of names, got {classes!r}{hint}')
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(f'{owner}: a classifier needs two classes or more, of different names, got {some(classes, 5)}')
    return tuple(classes)


def class_names(dataset: Any) -> tuple[str, ...] | None:
    """Return the names of a data set's classes, in the order of its labels; None where it has none."""
    names = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    return None if names is None else tuple(names)


def count_classes(dataset: Any) -> int | None:
    """Return the number of a data set's class names, else its ``num_classes``; None where it has neither."""
    names = class_names(dataset)
    return getattr(dataset, 'num_classes', None) if names is None else len(names)


def classes_in(checkpoint: Any) -> tuple[str, ...] | None:
    """Return the classes that a run wrote into its checkpoint; None where it did not, or for the content of no run."""
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    return tuple(((meta or {}).get('dataset_meta') or {}).get('classes') or ()) or None


def names_for(classes: Sequence[str], own: Sequence[str] | None) -> tuple[str, ...]:
    """Return ``classes`` of a checkpoint; ``own``, of a data set, where they only count as many as it has: 0, 1, ...

    Such numbers stand for names that were not known, so that a label is its own name.
    """
    counts = own is not None and tuple(classes) == tuple(map(str, range(len(own))))
    return tuple(own if counts else classes)


def number_classes_(dataset: Any, classes: Sequence[str], who: str, whose: str) -> None:
    """Number the classes of a data set by their names in ``classes``, which may have more.

    Args:
        dataset: with ``metainfo['classes']``; one without is left alone. Labels change only where numbers differ.
        classes: the names, in the order of the network's outputs.
        who, whose: what the data set and the owner of ``classes`` are, for messages.

    Raises:
        ValueError: the data set has a class that is not in ``classes``, or numbers them otherwise and has no
            ``number_classes`` as :class:`NamedClasses` does.
    """
    own, classes = class_names(dataset), tuple(classes)
    if own is None or own == classes:
        return
    if not set(own) <= set(classes):
        told = difference(own, classes, who, whose)
        raise ValueError(
            f'{who}: has classes that {whose} does not have ({told}); leave their folders out, or train with them'
        )
    if not hasattr(dataset, 'number_classes'):
        raise ValueError(
            f'{who}: {type(dataset).__name__} numbers its classes otherwise than {whose} ({some(own, 5)} against '
            f'{some(classes, 5)}), and has no number_classes(classes) to change it; give both the same list'
        )
    dataset.number_classes(classes)


def difference(own: Sequence[str], other: Sequence[str], who: str, whose: str) -> str:
    """Say which names of two lists of classes are only in one of them."""
    sides = ((own, other, who), (other, own, whose))
    missing = [(name, len(here), [c for c in here if c not in set(there)]) for here, there, name in sides]
    return '; '.join(f'only in {name} (of {count}): {some(names, 5)}' for name, count, names in missing if names)
