"""Masks on a model: a bool buffer beside each prunable weight, which is 0 wherever the buffer is False.

The forward pass never multiplies by a mask. A hook on the parameter masks its gradient in the backward pass, so the
gradient norm counts the kept weights only, and no optimizer remembers anything of the others. An optimizer whose rule
chooses weights to grow asks for the whole gradient (:func:`pab.contracts.want_pruned_gradients`). After each step of an
optimizer that derives from ``torch.optim.Optimizer`` its pruned weights are set to 0: a step may mix the entries of a
matrix (Muon), and others may write gradients after the backward pass (communication hooks of DDP, added noise). Sign
optimizers need no such pass. Both hold in a copy: each masked layer has a keeper that is copied and pickled with it.
"""

import functools
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..contracts import sign_optimizers, wants_pruned_gradients
from ..patterns import Place, places_of_parameters
from ..state_dicts import MASK
from .targets import prunable_layers, refuse_sharded

_keepers: 'weakref.WeakSet[_Keeper]' = weakref.WeakSet()  # of all masked layers in the process


class _Keeper:
    """The keeper of the masks of one layer. The layer holds it as hooks of its own, and so takes it into copies."""

    def __init__(self, layer: nn.Module):
        self.layer, self.names = layer, {}  # name in the layer -> full name, for messages
        layer.register_forward_pre_hook(self.before_forward)
        layer.register_load_state_dict_pre_hook(self.before_load)
        self._watch()

    def __getstate__(self) -> tuple:
        # With the parameters: a copy of them has no hooks, and the copy of the layer is still empty at __setstate__.
        return self.layer, self.names, [self.layer._parameters.get(name) for name in self.names]

    def __setstate__(self, state: tuple) -> None:
        self.layer, self.names, weights = state
        self._watch()
        for name, weight in zip(self.names, weights, strict=True):
            self._hook(name, weight)

    def _watch(self) -> None:
        _keepers.add(self)
        _watch_optimizers()

    def keep(self, place: Place) -> None:
        """Keep one more weight of the layer; make its mask unless there is one."""
        name, weight = place.own_name, self.layer._parameters[place.own_name]
        if name + MASK not in self.layer._buffers:
            self.layer.register_buffer(name + MASK, torch.ones_like(weight, dtype=torch.bool))
        self.names[name] = place.full_name
        self._hook(name, weight)

    def mask(self, name: str) -> Tensor | None:
        """The mask of a weight, None where it was dropped; ValueError if it, or the parameter to mask, is gone."""
        if name not in self.names:
            return None
        mask = self.layer._buffers.get(name + MASK)
        if mask is None:
            raise ValueError(
                f'masks: the mask of {self.names[name]!r} is gone (torch.nn.utils.prune.remove takes it along), so '
                'nothing keeps its pruned weights at 0; set one by apply_masks_, such as weight != 0'
            )
        if not _is_mask_of(mask, self.layer._parameters.get(name)):
            raise ValueError(
                f'masks: {self.names[name]!r} is no parameter any more that its mask fits (weight_norm, another '
                'parametrization, torch.nn.utils.prune or a flattening wrapper has replaced it), so nothing would keep '
                'its pruned weights at 0; undo that, or leave this layer out of the pruning'
            )
        return mask

    def before_forward(self, _module: nn.Module, _inputs: tuple) -> None:
        """Hook the parameter that is there now: a new one, or the gathered one of FSDP2."""
        if torch.compiler.is_compiling():
            return
        for name in self.names:
            if self.mask(name) is not None:
                self._hook(name, self.layer._parameters[name])

    def before_load(self, module: nn.Module, state_dict: Mapping[str, Tensor], prefix: str, *_unused: Any) -> None:
        """Refuse a state dict whose weights contradict its masks."""
        check_state_masks(module, state_dict, prefix)

    def after_step(self, stepped: set[int]) -> None:
        """Mask the weights among the parameters with the given ids."""
        for name in self.names:
            weight = self.layer._parameters.get(name)
            if weight is None and not stepped.isdisjoint(map(id, self.layer.parameters())):
                self.mask(name)  # raises
            if id(weight) in stepped and (mask := self.mask(name)) is not None:
                weight, mask = weight.detach(), _beside(mask, weight)
                if (numbers := _as_integers(weight)) is not None:
                    numbers.mul_(mask.to(numbers.dtype))
                else:
                    weight.mul_(mask).add_(0)  # adding makes -0 0

    def _hook(self, name: str, weight: Tensor | None) -> None:
        # a plain tensor stands in for the parameter in functional calls, whose gradient is the caller's affair
        if not isinstance(weight, nn.Parameter) or not weight.requires_grad:
            return
        hooks = (weight._backward_hooks or {}).values()
        if not any(isinstance(hook, _MaskGradient) and hook.keeper is self for hook in hooks):
            weight.register_hook(_MaskGradient(self, name))


@dataclass
class _MaskGradient:
    """The product rule of w * mask, as a hook on the parameter w; reads the buffer anew, wherever it has been moved."""

    keeper: _Keeper
    name: str

    def __call__(self, grad: Tensor) -> Tensor:
        mask = self.keeper.mask(self.name)
        if mask is None or wants_pruned_gradients(self.keeper.layer._parameters[self.name]):
            return grad
        mask = _beside(mask, grad)
        if (numbers := _as_integers(grad)) is not None:
            return numbers.mul(mask.to(numbers.dtype)).view(grad.dtype)
        # masked_fill, not a product of floats: 0 * inf would let a NaN into a pruned weight
        return grad.masked_fill(~mask, 0)


@functools.cache
def _watch_optimizers() -> None:
    register_optimizer_step_post_hook(_mask_after_step)  # of every optimizer, whoever makes it; once in a process


@torch.no_grad()
def _mask_after_step(optimizer: Optimizer, _args: tuple, _kwargs: dict[str, Any]) -> None:
    if sign_optimizers([optimizer]):  # the sign of 0 flipped is 0
        return
    stepped = {id(param) for group in optimizer.param_groups for param in group['params']}
    for keeper in tuple(_keepers):
        keeper.after_step(stepped)


def _as_integers(tensor: Tensor) -> Tensor | None:
    """The bits of a tensor on a CPU as integers of their size: their product with a mask takes a third of the time."""
    plain = type(tensor) is Tensor and tensor.is_cpu and not tensor.requires_grad
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}.get(tensor.element_size()) if plain else None
    try:
        return None if bits is None else tensor.view(bits)
    except RuntimeError:  # a conjugate that is not written out, or gradients that are batched (is_grads_batched)
        return None


def _beside(mask: Tensor, weight: Tensor) -> Tensor:
    """The mask on the device of a weight, sharded where the weight is (a DTensor); nothing is communicated."""
    if not hasattr(weight, 'placements'):
        return mask.to(weight.device)
    if torch.__version__ < '2.7':
        raise ValueError(f'masks: weights sharded by FSDP2 need torch 2.7 or newer, and this is {torch.__version__}')
    distribute = torch.distributed.tensor.distribute_tensor  # whoever made the weight has imported it, in 0.6 seconds
    return distribute(mask, weight.device_mesh, weight.placements, src_data_rank=None)


def register_masks_(model: nn.Module, prunable: Sequence[str] = ('Conv2d',)) -> dict[str, Tensor]:
    """Give every prunable layer without a mask one that keeps all; masks that are there stay as they are.

    Call it in the constructor of a model whose pruned state dicts others load, above all without ``strict``: torch then
    drops a mask that the model has no place for, without a word.

    Args:
        model: changed in place; a buffer ``weight_mask`` appears in its state dict.
        prunable: patterns, as :func:`~pab.pruners.targets.prunable_layers` takes them.

    Returns:
        All masks of the model, as :func:`get_masks` does.
    """
    for name, layer in prunable_layers(model, prunable).items():
        _keep(Place(layer, name, name.rpartition('.')[2]))
    return get_masks(model)


def get_masks(model: nn.Module, remove_duplicate: bool = True) -> dict[str, Tensor]:
    """The mask buffers of a model, parameter name -> bool tensor, True where kept.

    A layer that a network uses twice is listed under its first name, or under both without ``remove_duplicate``.
    """
    modules = dict(model.named_modules(remove_duplicate=remove_duplicate))
    return {
        f'{at}.{own}'.removeprefix('.'): mask for at, layer in modules.items() for own, mask in _masks_of(layer).items()
    }


def apply_masks_(
    model: nn.Module, masks: Mapping[str, Tensor], optimizers: Iterable[Optimizer] | Optimizer = ()
) -> None:
    """Set masks, zero what they remove, and see to it that it stays zero.

    Args:
        model: changed in place; nothing is changed when this raises.
        masks: parameter name -> bool tensor of the parameter's shape, True where the weight stays.
        optimizers: whose state for these parameters is zeroed at pruned positions, so that momentum from before the
            pruning moves nothing. Only state of the parameter's shape is.

    Raises:
        ValueError: no parameter has that name, or it is sharded (FSDP2), or a mask has another shape, is not bool, or
            keeps what an earlier mask removed.
    """
    places = {parts[0].full_name: parts[0] for parts in places_of_parameters(model).values()}
    earlier = get_masks(model)
    for name, mask in masks.items():
        if name not in places:
            raise ValueError(
                f'apply_masks_: {type(model).__name__} has no parameter {name!r}; it has {", ".join(places)}'
            )
        refuse_sharded(name, getattr(places[name].layer, places[name].own_name))
        _check(name, mask, getattr(places[name].layer, places[name].own_name).shape)
        if name in earlier and bool((mask.to(earlier[name].device) & ~earlier[name]).any()):
            raise ValueError(
                f'apply_masks_: the mask of {name!r} revives a pruned weight; '
                'prune the masked model (its masks are respected), or start from the dense one'
            )
    optimizers = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    for name, mask in masks.items():
        layer, own = places[name].layer, places[name].own_name
        _keep(places[name])
        weight, buffer = layer._parameters[own], layer._buffers[own + MASK]
        buffer.copy_(mask)
        states = [value for optimizer in optimizers for value in optimizer.state.get(weight, {}).values()]
        for tensor in (weight.detach(), weight.grad, *states):
            if isinstance(tensor, Tensor) and tensor.shape == weight.shape:
                tensor.masked_fill_(~buffer.to(tensor.device), 0)


def drop_masks_(model: nn.Module) -> None:
    """Take the masks off a model: its weights stay as they are, and nothing keeps the pruned ones at 0 any more."""
    for keeper in _keepers_of(*model.modules()):
        for name in keeper.names:
            keeper.layer._buffers.pop(name + MASK, None)
        keeper.names = {}


def density_table(masks: Mapping[str, Tensor]) -> str:
    """Write kept, total and density of every mask and of all together as an aligned text table, one line each."""
    counts = [(name, int(mask.sum()), mask.numel()) for name, mask in masks.items()]
    counts.append(('all', sum(kept for _, kept, _ in counts), sum(total for _, _, total in counts)))
    rows = [('tensor', 'kept', 'total', 'density')]
    rows += [(name, f'{kept:,}', f'{n:,}', f'{kept / n:.4f}' if kept else 'empty') for name, kept, n in counts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join('  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)


def check_masks(model: nn.Module) -> None:
    """Verify that every masked weight of a model is 0 wherever its mask is False; else ValueError names the first.

    A ValueError, too, where a mask has no parameter any more. Of sharded weights each process checks its part.
    """
    for keeper in _keepers_of(*model.modules()):
        for name in keeper.names:
            keeper.mask(name)
    check_state_masks(model, model.state_dict())


def check_state_masks(model: nn.Module, state_dict: Mapping[str, Tensor], prefix: str = '') -> None:
    """Verify that a state dict has the masks of the model, no others, and weights that agree with them.

    Every masked layer does so for its own part when a state dict is loaded into it.

    Args:
        model: with its masks registered.
        state_dict: what would be loaded into it; may lack a weight together with its mask.
        prefix: of the model's keys in ``state_dict``.

    Raises:
        ValueError: a mask is missing, too many, of another shape or not bool, or a weight is not 0 where pruned.
    """
    masks = get_masks(model, remove_duplicate=False)
    for name, own in masks.items():
        key = prefix + name
        if key + MASK in state_dict:
            _check(key, state_dict[key + MASK], own.shape, state_dict.get(key, model.get_parameter(name)))
        elif key in state_dict:
            raise ValueError(
                f'{type(model).__name__}: the state dict has no mask {key + MASK!r}, but the model is pruned; '
                'load a pruned checkpoint, or load before pruning'
            )
    for key, value in state_dict.items():
        name = key.removesuffix(MASK)
        known = name == key or not key.startswith(prefix) or name.removeprefix(prefix) in masks
        if not known and _is_mask_of(value, state_dict.get(name)):
            raise ValueError(
                f'{type(model).__name__}: the state dict has a mask {key!r}, but the model has none there; '
                'call register_masks_ before loading'
            )


def _check(name: str, mask: Tensor, shape: torch.Size, weight: Tensor | None = None) -> None:
    if mask.dtype != torch.bool:
        raise ValueError(f'the mask of {name!r} must be bool, got {mask.dtype}')
    if mask.shape != shape:
        raise ValueError(f'the mask of {name!r} has shape {tuple(mask.shape)}, its weight {tuple(shape)}')
    if weight is None or weight.shape != shape:  # for torch to refuse
        return
    if wrong := int((_numbers(weight).ne(0) & ~_numbers(_beside(mask, weight))).sum()):
        why = 'the tensor was changed after pruning or belongs to another mask'
        raise ValueError(f'{name!r} contradicts its mask: {wrong} pruned weights are not 0; {why}')


def _keepers_of(*modules: nn.Module) -> list[_Keeper]:
    of = set(modules)
    return [keeper for keeper in _keepers if keeper.layer in of]


def _keep(place: Place) -> None:
    (next(iter(_keepers_of(place.layer)), None) or _Keeper(place.layer)).keep(place)


def _numbers(tensor: Tensor) -> Tensor:
    """A plain tensor of the entries: of a sharded one those of this process, of a quantized one their values."""
    tensor = tensor.detach()
    if hasattr(tensor, 'placements'):
        return tensor.to_local()
    return tensor if type(tensor).dequantize is Tensor.dequantize else tensor.dequantize()  # such as torchao's


def _masks_of(module: nn.Module) -> dict[str, Tensor]:
    pairs = {own: (module._buffers.get(own + MASK), weight) for own, weight in module._parameters.items()}
    return {own: mask for own, (mask, weight) in pairs.items() if _is_mask_of(mask, weight)}


def _is_mask_of(mask: Tensor | None, weight: Tensor | None) -> bool:
    return mask is not None and weight is not None and mask.dtype == torch.bool and mask.shape == weight.shape
