"""A file's own words on its network, checked before they are believed; networks are built by name alone."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from ..registry import MODELS, check_names
from .container import CompactError

RECIPE = {
    'network': dict,
    'layout': str,
    'init': (dict, type(None)),
    'signs': [str],
    'drawn': bool,
    'constant': [str],
    'mask': {'names': [str], 'magnitudes': bool, 'sha256': str},
    'counts': {'numbers': int, 'prunable': int, 'kept': int},
    'values': str,
    'classes': [str],
    'preprocessing': dict,
    'input_shape': object,
    'pruning': (dict, type(None)),
    'written_by': dict,
}
INIT = {'scheme': str, 'seed': int, 'fan_share': (int, float), 'sha256': str}
TENSOR = 1 << 17  # bytes that a tensor counts beside its numbers, so that building many small ones does not take long


class TooLarge(CompactError):
    """A network that takes more memory than its file may ask for."""


def check_form(value: Any, form: Any, where: str) -> None:
    """Compare plain data with a form: a type or types, a list of one form, or a dict of forms, with no other key.

    Raises:
        CompactError: names the first place that differs.
    """
    kind = type(form) if isinstance(form, dict | list) else form
    if not isinstance(value, kind) or (isinstance(form, dict) and value.keys() != form.keys()):
        shown = f'a dict of {", ".join(sorted(form))}' if isinstance(form, dict) else _in_words(form)
        raise CompactError(f'{where} should be {shown}, got {value!r:.200}')
    if isinstance(form, dict):
        for key in form:
            check_form(value[key], form[key], f'{where}.{key}')
    elif isinstance(form, list):
        for index, item in enumerate(value):
            check_form(item, form[0], f'{where}[{index}]')


def _in_words(form: Any) -> str:
    if isinstance(form, list):
        return f'a list of {_in_words(form[0])}'
    return ' or '.join(kind.__name__ for kind in form) if isinstance(form, tuple) else form.__name__


def check_recipe(recipe: Any, where: str) -> None:
    """Raise a CompactError, which begins with ``where``, unless a recipe has the form that docs/files.md gives."""
    check_form(recipe, RECIPE, where)
    if recipe['init'] is not None:
        check_form(recipe['init'], INIT, f'{where}.init')
    elif recipe['signs']:
        raise CompactError(f'{where}.init should have a seed, since the file has signs of {recipe["signs"][0]!r}')
    shape = recipe['input_shape']
    sizes = isinstance(shape, list) and all(type(size) is int and size >= 1 for size in shape)
    if not sizes or len(shape) not in (0, 3):
        raise CompactError(f'{where}.input_shape should be (C, H, W) or empty, got {shape!r:.200}')


def build_network(config: Mapping, limit: float = math.inf) -> nn.Module:
    """Build a network of MODELS; torch's random state stays as it was.

    Args:
        limit: bytes that its parameters and buffers may take.

    Raises:
        CompactError: the config names what is not registered, its class refuses the arguments, or it takes more.
    """
    if 'type' not in config:
        raise CompactError(f'a network is described by a type and its arguments, got {config!r:.200}')
    try:
        check_names(config, 'network', MODELS)
    except ValueError as error:
        raise CompactError(str(error)) from error
    arguments = {key: value for key, value in config.items() if key != 'type'}
    try:
        with torch.random.fork_rng(devices=[]), _limited(limit):
            return MODELS.module_dict[config['type']](**arguments)
    except CompactError:
        raise
    except Exception as error:  # whatever a constructor does with arguments that nobody has checked
        raise CompactError(f'{config["type"]} cannot be built with {arguments!r:.200}: {error}') from error


def build_outline(config: Mapping, limit: float) -> nn.Module:
    """Build a network as :func:`build_network` does, where possible on the meta device, without memory for tensors."""
    try:
        with torch.device('meta'):
            return build_network(config, limit)
    except TooLarge:
        raise
    except CompactError:  # such as a constructor that reads the numbers of a tensor
        return build_network(config, limit)


@contextmanager
def _limited(limit: float) -> Iterator[None]:
    """TooLarge in a constructor as soon as what it has registered takes more bytes, and before it fills them."""
    taken = 0

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal taken
        taken += 0 if tensor is None else TENSOR + tensor.nbytes
        if taken > limit:
            raise TooLarge(f'its network takes more than the {limit:,} bytes that a file of this size may ask for')

    hooks = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
