"""The file: a recipe and named tensors in one safetensors file, each part with its sha256."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..files import write_atomically

FORMAT, VERSION = 'pab.compact', '1'
TENSOR_PARTS = ('signs', 'mask', 'values')  # what stands before the first / of a tensor's name


class CompactError(ValueError):
    """A network that cannot be stored as a compact file, or a file that cannot be read as one."""


def write(file: str | os.PathLike, recipe: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a file, whole or not at all; its folder is made, and a file that is there is replaced.

    Args:
        recipe: plain data.
        tensors: by names of which each belongs to one of ``TENSOR_PARTS``.
    """
    text = json.dumps(recipe, allow_nan=False)
    digests = json.dumps(_digests(text, tensors))
    metadata = {'format': FORMAT, 'version': VERSION, 'recipe': text, 'sha256': digests}
    try:
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
    except (SafetensorError, KeyError, ValueError) as error:  # such as a type of numbers that it does not know
        raise CompactError(f'save: safetensors cannot store the tensors: {error}') from error
    write_atomically(content, Path(file).expanduser())


def read(file: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file and compare every part with its sha256; nothing larger than the file is allocated.

    Returns:
        The recipe, whose keys nobody has checked, and the tensors by name.

    Raises:
        FileNotFoundError: there is no such file.
        CompactError: it is no compact file, of another version, or damaged; says in which part.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'there is no compact file {path}')
    try:
        with safe_open(path, framework='pt') as opened:
            metadata = opened.metadata() or {}
            if metadata.get('format') != FORMAT:
                raise CompactError(f'its header does not say format {FORMAT!r}, so it is no compact file')
            if (version := metadata.get('version')) != VERSION:
                raise CompactError(f'it has version {version!r} of the format, and this pab reads {VERSION!r}')
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
        digests, recipe = json.loads(metadata['sha256']), json.loads(metadata['recipe'])
        if set(metadata) != {'format', 'version', 'recipe', 'sha256'}:
            raise CompactError(f'its header has the keys {sorted(metadata)}')
        if odd := [name for name in tensors if _part(name) not in TENSOR_PARTS]:
            raise CompactError(f'no part of the format has a tensor {odd[0]!r}')
        for part, digest in _digests(metadata['recipe'], tensors).items():
            if digests[part] != digest:
                raise CompactError(f'the sha256 of its {part} is wrong')
    except CompactError as error:
        raise CompactError(f'{path} cannot be read: {error}') from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CompactError(f'{path} is damaged or of another kind: {error}') from error
    return recipe, tensors


def join(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One tensor for each type, of any values of it, in the order of their names."""
    parts: dict[torch.dtype, list[Tensor]] = {}
    for name in sorted(values):  # as bytes, since not every type of numbers can be joined
        parts.setdefault(values[name].dtype, []).append(values[name].reshape(-1).view(torch.uint8))
    return {_joined_name(kind): torch.cat(own).view(kind) for kind, own in parts.items()}


def split(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo :func:`join`, where ``expected`` has the names, types and shapes of the values.

    Raises:
        CompactError: the tensors hold other types, or more or fewer numbers.
    """
    joined = {name: tensor for name, tensor in tensors.items() if _part(name) == 'values'}
    need, have = (', '.join(line(name, own[name]) for name in sorted(own)) for own in (join(expected), joined))
    if need != have:
        raise CompactError(f'its network takes {need or "no values"}, and it has {have or "none":.200}')
    values = {}
    for name in sorted(expected):
        own = joined[kind := _joined_name(expected[name].dtype)]
        values[name], joined[kind] = own.tensor_split([expected[name].numel()])
        values[name] = values[name].view(expected[name].shape)
    return values


def line(name: str, tensor: Tensor) -> str:
    """Name, type and shape of a tensor, such as ``bn1.weight float32 64``."""
    return f'{name} {str(tensor.dtype).removeprefix("torch.")} {"x".join(map(str, tensor.shape))}'


def _joined_name(kind: torch.dtype) -> str:
    return f'values/{kind}'.replace('torch.', '')


def _digests(recipe: str, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The sha256 of each part: of the recipe's text; of a line with name, type and shape, and the bytes, per tensor."""
    digests = {'recipe': hashlib.sha256(recipe.encode()), **{part: hashlib.sha256() for part in TENSOR_PARTS}}
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digests[_part(name)].update(f'{line(name, tensor)}\n'.encode())
        if tensor.numel():
            digests[_part(name)].update(tensor.reshape(-1).view(torch.uint8).numpy())
    return {part: digest.hexdigest() for part, digest in digests.items()}


def _part(name: str) -> str:
    return name.split('/')[0]
