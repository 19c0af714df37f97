"""Masks on a model: a bool buffer beside each prunable weight, which is 0 wherever the buffer is False.

The forward pass never multiplies by a mask. A weight that is 0 stays 0 because a hook on the parameter masks its
gradient: plain SGD adds 0, momentum and Adam average zeros, weight decay takes a share of 0. The gradient norm counts
the kept weights only. An optimizer that is not known to treat every entry by itself, such as Muon, which mixes those of
a matrix, has the pruned weights zeroed after each of its steps. So a pruned weight stays 0 under every optimizer that
derives from ``torch.optim.Optimizer``; one that has stepped before is named to :func:`apply_masks_`, which clears what
it remembers of the pruned weights.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..contracts import sign_optimizers
from ..patterns import places_of_parameters
from ..state_dicts import MASK
from .targets import prunable_layers

ELEMENTWISE = {
    getattr(torch.optim, name)
    for name in ('ASGD', 'Adadelta', 'Adagrad', 'Adam', 'AdamW', 'Adamax', 'NAdam', 'RAdam', 'RMSprop', 'Rprop', 'SGD')
}
"""Optimizers whose step leaves a weight at 0 that is 0 and has had no gradient but 0."""


@dataclass
class _MaskGradient:
    """The product rule of w * mask, as a hook on the parameter w; reads the buffer anew, wherever it has been moved."""

    module: nn.Module
    name: str

    def __call__(self, grad: Tensor) -> Tensor:
        # masked_fill, not a product: 0 * inf would let a NaN into a pruned weight
        return grad.masked_fill(~self.module._buffers[self.name + MASK], 0)


def register_masks_(model: nn.Module, prunable: Sequence[str] = ('Conv2d',)) -> dict[str, Tensor]:
    """Give every prunable layer without a mask one that keeps all; masks that are there stay as they are.

    What masks the gradients is put back where copying, pickling or a new parameter has lost it. An ordinary forward
    pass does so too; a copy that is compiled before its first one needs this call.

    Args:
        model: changed in place; a buffer ``weight_mask`` appears in its state dict.
        prunable: patterns, as :func:`~pab.pruners.targets.prunable_layers` takes them.

    Returns:
        All masks of the model, as :func:`get_masks` does.
    """
    for layer in prunable_layers(model, prunable).values():
        _attach(layer, 'weight')
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
        ValueError: no parameter has that name, or a mask has another shape, is not bool, or keeps what an earlier mask
            removed.
    """
    places = {parts[0].full_name: parts[0] for parts in places_of_parameters(model).values()}
    earlier = get_masks(model)
    for name, mask in masks.items():
        if name not in places:
            raise ValueError(
                f'apply_masks_: {type(model).__name__} has no parameter {name!r}; it has {", ".join(places)}'
            )
        _check(name, mask, getattr(places[name].layer, places[name].own_name).shape)
        if name in earlier and bool((mask.to(earlier[name].device) & ~earlier[name]).any()):
            raise ValueError(
                f'apply_masks_: the mask of {name!r} revives a pruned weight; '
                'prune the masked model (its masks are respected), or start from the dense one'
            )
    optimizers = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    for name, mask in masks.items():
        layer, own = places[name].layer, places[name].own_name
        _attach(layer, own)
        weight, buffer = layer._parameters[own], layer._buffers[own + MASK]
        buffer.copy_(mask)
        states = [value for optimizer in optimizers for value in optimizer.state.get(weight, {}).values()]
        for tensor in (weight.detach(), weight.grad, *states):
            if isinstance(tensor, Tensor) and tensor.shape == weight.shape:
                tensor.masked_fill_(~buffer.to(tensor.device), 0)


def density_table(masks: Mapping[str, Tensor]) -> str:
    """Write kept, total and density of every mask and of all together as an aligned text table, one line each."""
    counts = [(name, int(mask.sum()), mask.numel()) for name, mask in masks.items()]
    counts.append(('all', sum(kept for _, kept, _ in counts), sum(total for _, _, total in counts)))
    rows = [('tensor', 'kept', 'total', 'density')]
    rows += [(name, f'{kept:,}', f'{n:,}', f'{kept / n:.4f}' if kept else 'empty') for name, kept, n in counts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join('  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)


def check_masks(model: nn.Module) -> None:
    """Verify that every masked weight of a model is 0 wherever its mask is False; else ValueError names the first."""
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
    if wrong := int(weight.detach().masked_fill(mask.to(weight.device), 0).count_nonzero()):
        why = 'the tensor was changed after pruning or belongs to another mask'
        raise ValueError(f'{name!r} contradicts its mask: {wrong} pruned weights are not 0; {why}')


def _attach(module: nn.Module, name: str) -> None:
    if name + MASK not in module._buffers:
        module.register_buffer(name + MASK, torch.ones_like(module._parameters[name], dtype=torch.bool))
    if not any(hook is _restore_hooks for hook in module._forward_pre_hooks.values()):
        module.register_forward_pre_hook(_restore_hooks)
        module.register_load_state_dict_pre_hook(_check_before_load)
    _restore_hooks(module, ())


def _restore_hooks(module: nn.Module, _inputs: tuple) -> None:
    # A forward pre-hook, because deepcopy and pickle keep hooks of modules but drop those of parameters.
    if torch.compiler.is_compiling():
        return
    for name in _masks_of(module):
        weight = module._parameters[name]
        # a plain tensor stands in for the parameter in functional calls, whose gradient is the caller's affair
        if not isinstance(weight, nn.Parameter) or not weight.requires_grad:
            continue
        if not any(hook.module is module for hook in _mask_hooks(weight)):
            weight.register_hook(_MaskGradient(module, name))
            _watch_optimizers()


def _mask_hooks(weight: Tensor) -> list[_MaskGradient]:
    return [hook for hook in (weight._backward_hooks or {}).values() if isinstance(hook, _MaskGradient)]


@functools.cache
def _watch_optimizers() -> None:
    register_optimizer_step_post_hook(_mask_after_step)  # of every optimizer, whoever makes it; once in a process


@torch.no_grad()
def _mask_after_step(optimizer: Optimizer, _args: tuple, _kwargs: dict[str, Any]) -> None:
    if type(optimizer) in ELEMENTWISE or sign_optimizers([optimizer]):  # the sign of 0 flipped is 0
        return
    for group in optimizer.param_groups:
        for weight in group['params']:
            for hook in _mask_hooks(weight):
                weight.copy_(hook(weight))


def _check_before_load(module: nn.Module, state_dict: Mapping[str, Tensor], prefix: str, *_unused: Any) -> None:
    check_state_masks(module, state_dict, prefix)


def _masks_of(module: nn.Module) -> dict[str, Tensor]:
    pairs = {own: (module._buffers.get(own + MASK), weight) for own, weight in module._parameters.items()}
    return {own: mask for own, (mask, weight) in pairs.items() if _is_mask_of(mask, weight)}


def _is_mask_of(mask: Tensor | None, weight: Tensor | None) -> bool:
    return mask is not None and weight is not None and mask.dtype == torch.bool and mask.shape == weight.shape
