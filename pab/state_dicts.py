"""The names that several parts of pab give to entries of state dicts and of checkpoints."""

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar('Value')

MASK = '_mask'  # ends the name of a parameter's mask
NETWORK = 'network.'  # begins every name of the network's own in the state dict of an ImageClassifier
PRUNING_RECORD = 'pruning'  # what a checkpoint says of its pruning


def masks_in(state: Mapping[str, Value]) -> dict[str, Value]:
    """Parameter name -> mask, for every mask that a state dict has beside its parameter."""
    return {name: state[name + MASK] for name in state if name + MASK in state}


def network_in(state: Mapping[str, Value]) -> dict[str, Value]:
    """The part of an ImageClassifier's state dict that is its network's, by the names that it has in the network."""
    return {name.removeprefix(NETWORK): value for name, value in state.items() if name.startswith(NETWORK)}
