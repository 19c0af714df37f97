"""From a network to a file and back: magnitudes as a seed, signs as bits, masks coded, everything else as it is."""

import hashlib
import json
import math
import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..models import initialize_, network_of
from ..patterns import Patterns, places_of_parameters
from ..pruners import apply_masks_, get_masks
from ..state_dicts import MASK
from . import mask_coding, sign_coding
from .container import TENSOR_PARTS, CompactError, join, line, read, split, write
from .recipe import build_network, build_outline, check_recipe
from .sign_coding import Masks, State, hash_drawn, hash_mask_bits

VALUES = {'float32': torch.float32, 'float16': torch.float16}
UNREADABLE = ValueError, TypeError, RuntimeError, LookupError
MEMORY = 400_000_000, 4096  # bytes that any file may ask for; or for each of its own bytes, if that is more


def save(
    model: nn.Module,
    file: str | os.PathLike,
    *,
    network: Mapping,
    seed: int | None,
    scheme: str = 'kaiming_normal',
    fan_share: float = 1.0,
    signs: Sequence[str] = ('Conv2d.weight',),
    values: str = 'float32',
    classes: Sequence[str] = (),
    preprocessing: Mapping | None = None,
    input_shape: Sequence[int] = (),
    pruning: Mapping | None = None,
) -> None:
    """Write a trained network: the seed of its magnitudes, its mask, a sign for each kept weight, and the rest.

    A tensor whose kept weights all have one magnitude, whatever the seed gave, takes a number for it. Where
    no sign differs from those drawn, none is stored. What the file will hold is loaded before it is written, and
    compared with the network bit by bit.

    Args:
        model: an ImageClassifier or a plain network, with its masks, with or without PSG layers; one with latents
            is merged before (:func:`pab.latent.merge_latents_`).
        file: where; a file that is there is replaced.
        network: config in MODELS that builds the plain network.
        seed, scheme, fan_share: of the initial weights, as for :func:`pab.models.initialize_`. The seed None is for a
            network that drew them itself, and goes with ``signs=()``.
        signs: patterns (:mod:`pab.patterns`) of the parameters that kept their initial magnitudes; () for none, and
            then all weights are stored as values.
        values: 'float32' stores all other parameters and buffers exactly, 'float16' rounds them.
        classes: names of the classes, in the order of the logits.
        preprocessing: what is done to an image before, as plain data such as ``mean``, ``std``, ``resize``, ``size``.
        input_shape: (C, H, W) of one image.
        pruning: a checkpoint's record of its pruning; a training that starts from the file then prunes no more.

    Raises:
        CompactError: a magnitude is not that of the seed (names the first tensor), a pruned weight is not 0, plain data
            cannot describe the network, or :func:`load` would refuse the file.
    """
    if values not in VALUES:
        raise CompactError(f'save: values must be {" or ".join(VALUES)}, got {values!r}')
    if isinstance(classes, str):
        raise CompactError(f'save: classes must be a list of names, got {classes!r}')
    recipe = {
        'network': network,
        'layout': '',
        'init': None if seed is None else {'scheme': scheme, 'seed': seed, 'fan_share': fan_share, 'sha256': ''},
        'signs': [],
        'drawn': False,
        'constant': [],
        'mask': {'names': [], 'magnitudes': False, 'sha256': ''},
        'counts': {'numbers': 0, 'prunable': 0, 'kept': 0},
        'values': values,
        'classes': [str(name) for name in classes],
        'preprocessing': preprocessing or {},
        'input_shape': input_shape,
        'pruning': pruning,
        'written_by': {'pab': __version__, 'torch': str(torch.__version__), 'machine': platform.machine()},
    }
    try:
        recipe = json.loads(json.dumps(recipe, allow_nan=False))  # as a reader will see it: tuples are lists
    except (TypeError, ValueError) as error:
        raise CompactError(f'save: a file holds plain data only: {error}') from error
    check_recipe(recipe, 'save: recipe')
    if seed is None and signs:
        raise CompactError('save: signs need the seed of the initial weights; signs=() stores all weights as values')
    write(file, recipe, _describe(recipe, network_of(model), signs))


def load(file: str | os.PathLike) -> nn.Module:
    """Read the plain network of a file: on the CPU, in evaluation mode, with its masks, bit for bit as it was saved.

    Nothing is imported and no code of the file is run: its network is one of those registered in MODELS.

    Raises:
        FileNotFoundError: there is no such file.
        CompactError: it is damaged, of another version, or not of a network that pab knows; or this machine computes
            other numbers from the seed than the one that wrote it.
    """
    recipe, tensors = read(file)
    try:
        return _restored(recipe, tensors, Path(file).expanduser().stat().st_size)
    except UNREADABLE as error:
        raise CompactError(f'{file} cannot be loaded: {error}') from error


def info(file: str | os.PathLike) -> dict[str, Any]:
    """Read a file's own words on its network: the recipe (docs/files.md), and ``bytes``, from each part to its size.

    Raises:
        FileNotFoundError, CompactError: as for :func:`load`.
    """
    recipe, tensors = read(file)
    check_recipe(recipe, f'{file}: recipe')
    sizes = {part: sum(t.nbytes for name, t in tensors.items() if name.split('/')[0] == part) for part in TENSOR_PARTS}
    total = Path(file).expanduser().stat().st_size
    return {**recipe, 'bytes': {**sizes, 'header': total - sum(sizes.values()), 'file': total}}


def _describe(recipe: dict[str, Any], model: nn.Module, signs: Sequence[str]) -> dict[str, Tensor]:
    """Fill in what the weights decide of a recipe, and return the tensors of its file."""
    init, mask = recipe['init'], recipe['mask']
    fresh = _drawn(recipe)
    masks = {name: value.cpu().contiguous().numpy() for name, value in get_masks(model).items()}
    own_masks = {name + MASK for name in masks}
    state = {
        name: value.detach().cpu().contiguous() for name, value in _contents(model).items() if name not in own_masks
    }
    initial = _contents(fresh)
    kinds = [{name: (value.shape, value.dtype) for name, value in values.items()} for values in (initial, state)]
    if odd := [name for name in sorted(initial.keys() | state.keys()) if kinds[0].get(name) != kinds[1].get(name)]:
        raise CompactError(f'save: the config of the network builds another one; {odd[0]} is missing or differs')
    if odd := [name for name in masks if initial[name].dtype != torch.float32]:
        raise CompactError(f'save: {odd[0]} is {initial[odd[0]].dtype}, and a pruned weight must be float32')
    for name, own in masks.items():
        if wrong := np.count_nonzero(state[name].numpy()[~own]):
            raise CompactError(f'save: {wrong} pruned weights of {name} are not 0; apply the masks before')
        state[name] = state[name].masked_fill(torch.from_numpy(~own), 0)  # and none is -0
    recipe['layout'], recipe['signs'] = _hash_layout(state), (signed := _select(fresh, signs))
    bits, recipe['drawn'], constants = sign_coding.encode(signed, state, initial, masks, _source(init))
    recipe['constant'] = list(constants)
    mask['names'], mask['sha256'], recipe['counts'] = list(masks), hash_mask_bits(masks.values()), _counts(state, masks)
    if init is not None:
        init['sha256'] = hash_drawn(initial, recipe)
    arrays: dict[str, np.ndarray] = {}
    if masks:
        cubes = _cubes(initial, masks, init)
        kept = [own.reshape(cube.shape) for own, cube in zip(masks.values(), cubes, strict=True)]
        arrays, mask['magnitudes'] = mask_coding.encode(kept, cubes)
    tensors, values = {'signs': torch.from_numpy(bits)}, dict(constants)
    tensors |= {f'mask/{name}': torch.from_numpy(array) for name, array in arrays.items()}
    for name in state.keys() - set(signed):
        value = state[name][torch.from_numpy(masks[name])] if name in masks else state[name]
        values[name] = _rounded(name, value, VALUES[recipe['values']])
    tensors |= join(values)
    _check_comes_back(recipe, tensors, state, masks)
    return tensors


def _check_comes_back(recipe: dict[str, Any], tensors: State, state: State, masks: Masks) -> None:
    try:
        loaded = _contents(_restored(recipe, tensors, sum(tensor.nbytes for tensor in tensors.values())))
    except UNREADABLE as error:
        raise CompactError(f'save: the file could not be loaded, so none is written: {error}') from error
    kind = VALUES[recipe['values']]
    for name, value in (state | {name + MASK: torch.from_numpy(mask) for name, mask in masks.items()}).items():
        rounds = value.dtype == torch.float32 and name not in recipe['signs']
        if not same_bits(loaded[name], value.to(kind).to(value.dtype) if rounds else value):
            raise CompactError(f'save: the file would give back another {name}, so none is written; please report it')


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Tell if two tensors have one type, one shape and the same bits."""
    views = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b)]
    return (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(*views)


def _restored(recipe: dict[str, Any], tensors: State, size: int) -> nn.Module:
    check_recipe(recipe, 'recipe')
    signed, masked, constant, init = recipe['signs'], recipe['mask']['names'], recipe['constant'], recipe['init']
    limit = max(MEMORY[0], MEMORY[1] * size)
    build_outline(recipe['network'], limit)  # refuses one that is too large before it takes memory
    network = _drawn(recipe, limit)
    state = _contents(network)
    if _hash_layout(state) != recipe['layout']:
        raise CompactError(
            f'its tensors are not those of its network, of which a name, shape or type is another one here: '
            f'{_counts(state, {})["numbers"]} numbers, and {recipe["counts"]["numbers"]} where it was written'
        )
    floats = [name for name, t in state.items() if isinstance(t, nn.Parameter) and t.dtype == torch.float32]
    for names, allowed in ((signed, floats), (masked, floats), (constant, signed)):
        if odd := Counter(names) - Counter(allowed):
            raise CompactError(f'{min(odd)!r} is named twice, no float32 parameter, or has one magnitude without signs')
    if init is not None and hash_drawn(state, recipe) != init['sha256']:
        raise CompactError(
            f'{_source(init)} give other magnitudes here than where it was written, {recipe["written_by"]}'
        )
    masks = _decoded(recipe, tensors, state)
    if hash_mask_bits(masks.values()) != recipe['mask']['sha256'] or _counts(state, masks) != recipe['counts']:
        raise CompactError('its mask or its counts are not the ones it was written with')
    values = split(tensors, _expected(recipe, state, masks))
    constants = {name: values.pop(name) for name in constant}
    sign_coding.decode_(signed, state, masks, tensors.get('signs'), recipe['drawn'], constants)
    for name, value in values.items():
        target = state[name].detach()
        target[torch.from_numpy(masks[name]) if name in masks else ...] = value.to(target.dtype)
    apply_masks_(network, {name: torch.from_numpy(mask) for name, mask in masks.items()})
    return network.eval()


def _expected(recipe: Mapping[str, Any], state: State, masks: Masks) -> State:
    """What a file has values of, as tensors without numbers."""
    forms, kind = dict.fromkeys(recipe['constant'], ((1,), torch.float32)), VALUES[recipe['values']]
    for name in state.keys() - set(recipe['signs']):
        shape = (np.count_nonzero(masks[name]),) if name in masks else state[name].shape
        forms[name] = shape, kind if state[name].dtype == torch.float32 else state[name].dtype
    return {name: torch.empty(shape, dtype=dtype, device='meta') for name, (shape, dtype) in forms.items()}


def _decoded(recipe: dict[str, Any], tensors: State, state: State) -> Masks:
    mask, arrays = recipe['mask'], {n.removeprefix('mask/'): t.numpy() for n, t in tensors.items() if n[:5] == 'mask/'}
    if not mask['names']:
        return {}
    try:
        cubes = mask_coding.decode(arrays, mask['magnitudes'], _cubes(state, mask['names'], recipe['init']))
    except Exception as error:  # whatever a coder does with bytes that no coder wrote
        raise CompactError(f'its mask is damaged: {error}') from error
    return {name: cube.reshape(state[name].shape) for name, cube in zip(mask['names'], cubes, strict=True)}


def _drawn(recipe: dict[str, Any], limit: float = math.inf) -> nn.Module:
    """The network of a recipe with its initial weights."""
    network, init = build_network(recipe['network'], limit), recipe['init']
    return network if init is None else initialize_(network, init['scheme'], init['seed'], init['fan_share'])


def _counts(state: State, masks: Masks) -> dict[str, int]:
    numbers = sum(value.numel() for value in state.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    return {'numbers': numbers, 'prunable': sum(mask.size for mask in masks.values()), 'kept': kept}


def _hash_layout(state: State) -> str:
    """The sha256 of what values are joined by: names, types and shapes."""
    return hashlib.sha256('\n'.join(line(name, state[name]) for name in sorted(state)).encode()).hexdigest()


def _contents(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, each once; whoever writes to them changes the network."""
    first: dict[int, str] = {}
    state = network.state_dict(keep_vars=True)
    for name, value in state.items():
        first.setdefault(id(value), name)
        if not isinstance(value, Tensor):
            raise CompactError(f'{name} of the network is a {type(value).__name__}, and only tensors can be stored')
    return {name: state[name] for name in first.values()}


def _select(network: nn.Module, signs: Sequence[str]) -> list[str]:
    if not signs:
        return []
    patterns, places = Patterns('save: signs', signs), places_of_parameters(network)
    floats = [where for parameter, where in places.items() if parameter.dtype == torch.float32]
    return [where[0].full_name for where in floats if patterns.select_shared(where)]


def _source(init: Mapping[str, Any] | None) -> str:
    if init is None:
        return 'no seed'
    share = '' if init['fan_share'] == 1 else f', fan_share {init["fan_share"]}'
    return f'scheme {init["scheme"]!r}{share} and seed {init["seed"]}'


def _rounded(name: str, value: Tensor, kind: torch.dtype) -> Tensor:
    rounded = value.to(kind) if value.dtype == torch.float32 else value
    if value.dtype == torch.float32 and not torch.equal(rounded.isfinite(), value.isfinite()):
        raise CompactError(f'save: {name} holds numbers too large for float16; store values in float32')
    return rounded


def _cubes(initial: State, names: Iterable[str], init: Mapping[str, Any] | None) -> list[np.ndarray]:
    """The initial magnitudes of some tensors as (outputs, inputs, kernel positions), 0 where no seed gives them."""
    values = [
        np.abs(initial[name].detach().numpy() if init else np.zeros_like(initial[name].detach())) for name in names
    ]
    return [value.reshape(mask_coding.cube_shape(value.shape)) for value in values]
