"""The names that several parts of pab give to entries of state dicts and of checkpoints."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import Tensor

Value = TypeVar('Value')

MASK = '_mask'  # ends the name of a parameter's mask
NETWORK_PREFIX = 'network.'  # begins every name of the network's own in the state dict of an ImageClassifier
PRUNING_RECORD = 'pruning'  # what a checkpoint says of its pruning
SETTINGS = 'settings'  # the config of a checkpoint's run, as plain data


def masks_in(state: Mapping[str, Value]) -> dict[str, Value]:
    """Parameter name -> mask, for every mask that a state dict has beside its parameter."""
    return {name: state[name + MASK] for name in state if name + MASK in state}


def network_in(state: Mapping[str, Value]) -> dict[str, Value]:
    """The part of an ImageClassifier's state dict that is its network's, by the names that it has in the network."""
    return renamed(state, lambda name: name.removeprefix(NETWORK_PREFIX) if name.startswith(NETWORK_PREFIX) else None)


def renamed(state: Mapping[str, Value], rename: Callable[[str], str | None]) -> dict[str, Value]:
    """A state dict by other names, with the versions of its modules (torch's ``_metadata``) by theirs.

    Some modules refuse to load a state dict without versions. ``rename`` gets names of entries, and of modules with a
    dot behind; it returns None for what is to be left out.
    """
    new = OrderedDict((name, value) for old, value in state.items() if (name := rename(old)) is not None)
    if isinstance(versions := getattr(state, '_metadata', None), Mapping):
        names = {module: rename(f'{module}.' if module else '') for module in versions}
        kept = {name.removesuffix('.'): versions[module] for module, name in names.items() if name is not None}
        new._metadata = OrderedDict(kept)
    return new


def head_of_another_size(here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> list[str]:
    """Name the tensors that differ in their first size, all alike, if no other differs; else []."""
    pairs = {name: (there[name].shape, here[name].shape) for name in here if isinstance(there.get(name), Tensor)}
    other = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    alike = {(old[:1], new[:1]) for old, new in other.values()}
    is_head = len(alike) == 1 and all(old[1:] == new[1:] and len(old) for old, new in other.values())
    return list(other) if is_head and not any(name.endswith(MASK) for name in other) else []
