"""Weights that a network begins with: from a file, or torchvision's by their name."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from ..checks import known_choice, some
from ..contracts import names_of_latents
from ..state_dicts import MASK, head_of_another_size, masks_in, network_in, renamed
from .library import TORCHVISION_ARGUMENTS


def load_weights_(network: nn.Module, source: str | os.PathLike) -> list[str]:
    """Load weights into a network, in place, but those of a head for another number of classes.

    Args:
        network: any; the latents of its converted layers, and masks that the weights lack, stay as they are.
        source: a file with a state dict, of the network or of an ImageClassifier, alone or as ``state_dict`` of a
            checkpoint; or a name of torchvision's, such as 'ResNet18_Weights.IMAGENET1K_V1', which torchvision fetches.

    Returns:
        The names of the tensors of a head that the weights have for another number of classes.

    Raises:
        ValueError: the file is missing, damaged, holds more than plain data, or is of another network; the message
            lists what is missing, unknown and of another shape.
        OSError: torchvision cannot fetch the weights.
    """
    source = os.fspath(source)
    state = _torchvision_weights(source) if '_Weights.' in source else _read(Path(source).expanduser())
    own = network.state_dict()
    masks = {name + MASK for name in masks_in(own)}  # of a pruner, which registers them before
    counters = {name for name in own if name.endswith('num_batches_tracked')}  # older files lack them
    may_lack = names_of_latents(network) | counters | masks
    head = head_of_another_size(own, state)
    wrong = {
        'missing': [name for name in own if name not in state and name not in may_lack],
        'unknown': [name for name in state if name not in own],
        'of another shape': [
            f'{name} {tuple(state[name].shape)}, here {tuple(own[name].shape)}'
            for name in own
            if name in state and name not in head and state[name].shape != own[name].shape
        ],
    }
    if any(wrong.values()):
        told = '; '.join(f'{len(names)} {what}: {some(names)}' for what, names in wrong.items() if names)
        raise ValueError(f'weights: {source} is of another network than this {type(network).__name__}; {told}')
    fitting = renamed(state, lambda name: None if name in head else name)
    fitting.update({name: own[name] for name in masks if name not in fitting})  # masked layers ask for them
    network.load_state_dict(fitting, strict=False)  # what may be missing is known
    return head


def _read(path: Path) -> Mapping[str, Tensor]:
    """The state dict of a network in a file."""
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        way_out = 'torchvision has weights by names such as ResNet18_Weights.IMAGENET1K_V1'
        raise ValueError(f'weights: there is no file {path}; {way_out}') from None
    except Exception as error:  # torch raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f'weights: {path} cannot be loaded ({reason:.200}); it must be a state dict alone') from error
    state = content.get('state_dict', content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f'weights: {path} holds no state dict, which maps names to tensors')
    state = renamed(state, lambda name: name.removeprefix('module.'))  # of a distributed model
    return network_in(state) or state


def _torchvision_weights(source: str) -> Mapping[str, Tensor]:
    """The state dict of torchvision's own network; old names of its files are torchvision's affair."""
    names = {models.get_model_weights(name): name for name in models.list_models(models)}
    known = [f'{enum.__name__}.{member}' for enum in names for member in enum.__members__]  # DEFAULT too
    known_choice('weights', 'name', source, known)
    weights = models.get_weight(source)
    name = names[type(weights)]
    try:
        with torch.random.fork_rng(devices=[]):
            return models.get_model(name, weights=weights, **TORCHVISION_ARGUMENTS.get(name, {})).state_dict()
    except (OSError, RuntimeError) as error:  # no network, no space; another checksum
        way_out = f'fetch {weights.url} elsewhere, and give its path as weights'
        raise OSError(f'weights: torchvision cannot fetch {source} ({error}); {way_out}') from error
