"""What a file says of its network, checked before it is believed; networks and pruners are built by name alone."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.registry import Registry
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..registry import MODELS, PRUNERS
from .container import CompactError

RECIPE = {
    'network': dict,
    'init': {'scheme': str, 'seed': int, 'fan_share': (int, float), 'sha256': str},
    'signs': [str],
    'drawn': bool,
    'constant': [str],
    'mask': {'names': [str], 'coding': str, 'magnitudes': bool, 'sha256': str, 'derived': (dict, type(None))},
    'counts': {'numbers': int, 'prunable': int, 'kept': int},
    'values': str,
    'classes': [str],
    'preprocessing': dict,
    'input_shape': [int],
    'pruning': (dict, type(None)),
    'written_by': dict,
}
LARGEST_IMAGE = 1 << 20  # numbers
READS_A_FILE = 'CompactNetwork'  # in MODELS
DERIVED = {'pruner': dict, 'seed': int, 'shots': int}


def check_form(value: Any, form: Any, where: str) -> None:
    """Compare plain data with a form: a type or types, a list of one form, or a dict of forms, with no other key.

    Raises:
        CompactError: names the first place that differs.
    """
    kind = type(form) if isinstance(form, dict | list) else form
    if not isinstance(value, kind) or (isinstance(form, dict) and value.keys() != form.keys()):
        shown = sorted(form) if isinstance(form, dict) else form
        raise CompactError(f'{where} should be {shown}, got {value!r:.200}')
    if isinstance(form, dict):
        for key in form:
            check_form(value[key], form[key], f'{where}.{key}')
    elif isinstance(form, list):
        for index, item in enumerate(value):
            check_form(item, form[0], f'{where}[{index}]')


def check_image(shape: list[int]) -> None:
    """CompactError unless a shape is that of an image that fits into memory, (C, H, W), or empty, for none."""
    if shape and (len(shape) != 3 or min(shape) < 1 or math.prod(shape) > LARGEST_IMAGE):
        raise CompactError(f'recipe.input_shape should be (C, H, W) with {LARGEST_IMAGE} numbers or fewer, got {shape}')


def build_network(config: Mapping) -> nn.Module:
    """Build a network of MODELS; torch's random state stays as it was.

    Raises:
        CompactError: the config names what is not registered, or its class refuses the arguments.
    """
    with torch.random.fork_rng(devices=[]):
        return _build(config, MODELS)


def build_outline(config: Mapping, tensors: int) -> nn.Module:
    """Build a network without memory for its tensors, on the meta device, and give up when it has too many.

    Args:
        tensors: how many parameters may be registered.

    Raises:
        CompactError: there are more; or as :func:`build_network`.
    """
    with torch.device('meta'), _limited(tensors):
        return build_network(config)


def build_pruner(config: Mapping) -> Any:
    """Build a pruner of PRUNERS; raises as :func:`build_network`."""
    return _build(config, PRUNERS)


def _build(config: Mapping, registry: Registry) -> Any:
    registry.import_from_location()
    if 'type' not in config:
        raise CompactError(f'a {registry.name} is described by a type and its arguments, got {config!r:.200}')
    _check_names(config, registry)
    arguments = {key: value for key, value in config.items() if key != 'type'}
    try:
        return registry.module_dict[config['type']](**arguments)
    except CompactError:
        raise
    except Exception as error:  # whatever a constructor does with arguments that nobody has checked
        raise CompactError(f'{config["type"]} cannot be built with {arguments!r:.200}: {error}') from error


def _check_names(value: Any, registry: Registry) -> None:
    for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        _check_names(item, registry)
    if not isinstance(value, dict):
        return
    if odd := [key for key in value if not key.isidentifier() or key.startswith('_')]:
        raise CompactError(f'{odd[0]!r} is no name of an argument')
    if value.get('type') == READS_A_FILE:
        raise CompactError(f'a network of type {READS_A_FILE} is in another file, and a compact file names no other')
    # only what is registered here: a dot or a scope in a name would make mmengine import a module
    if 'type' in value and not (isinstance(value['type'], str) and value['type'] in registry.module_dict):
        raise CompactError(
            f'{value["type"]!r} is no {registry.name} of pab, which has {", ".join(sorted(registry.module_dict))}; '
            'import a class of your own before you load the file'
        )


@contextmanager
def _limited(tensors: int) -> Iterator[None]:
    registered = []

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        registered.append(name)
        if len(registered) > tensors:
            raise CompactError(f'its network has more than the {tensors} parameters that the file accounts for')

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
