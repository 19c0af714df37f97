"""Masks on a model: a bool buffer beside each prunable weight, which is 0 wherever the buffer is False.

The forward pass never multiplies by a mask. A weight that is 0 stays 0 because its gradient is masked by a hook on the
parameter, so every optimizer leaves it alone: plain SGD adds 0, momentum and Adam average zeros, weight decay takes a
share of 0. The gradient norm counts the kept weights only.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .targets import prunable_layers

SUFFIX = '_mask'


class _MaskGradient:
    """The product rule of w * mask, as a hook on the parameter w; reads the buffer anew, wherever it has been moved."""

    def __init__(self, module: nn.Module, name: str):
        self.module, self.name = module, name

    def __call__(self, grad: Tensor) -> Tensor:
        # masked_fill, not a product: 0 * inf would let a NaN into a pruned weight
        return grad.masked_fill(~self.module._buffers[self.name + SUFFIX], 0)


def register_masks_(model: nn.Module, prunable: Iterable[str] = ('Conv2d',)) -> dict[str, Tensor]:
    """Give every prunable layer without a mask one that keeps all; masks that are there stay as they are.

    Args:
        model: changed in place; a buffer ``weight_mask`` appears in its state dict.
        prunable: class names of layers, subclasses included.

    Returns:
        Parameter name -> bool buffer, of all masks of the model.
    """
    for layer in prunable_layers(model, prunable).values():
        if 'weight' + SUFFIX not in layer._buffers:
            _attach(layer, 'weight')
    return get_masks(model)


def get_masks(model: nn.Module) -> dict[str, Tensor]:
    """Return the mask buffers of a model, parameter name -> bool tensor, True where kept; empty when it has none."""
    return {name: module._buffers[own + SUFFIX] for name, module, own in _masked(model)}


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
    owners = _parameter_owners(model)
    earlier = get_masks(model)
    for name, mask in masks.items():
        if name not in owners:
            raise ValueError(
                f'apply_masks_: {type(model).__name__} has no parameter {name!r}; it has {", ".join(owners)}'
            )
        _check_mask(name, mask, owners[name][0]._parameters[owners[name][1]], 'apply_masks_')
        if name in earlier and bool((mask.to(earlier[name].device) & ~earlier[name]).any()):
            raise ValueError(
                f'apply_masks_: the mask of {name!r} revives a pruned weight; '
                'prune the masked model (its masks are respected), or start from the dense one'
            )
    optimizers = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    for name, mask in masks.items():
        module, own = owners[name]
        if own + SUFFIX not in module._buffers:
            _attach(module, own)
        buffer, weight = module._buffers[own + SUFFIX], module._parameters[own]
        buffer.copy_(mask)
        pruned = ~buffer
        with torch.no_grad():
            weight.masked_fill_(pruned, 0)
            if weight.grad is not None:
                weight.grad.masked_fill_(pruned, 0)
            for optimizer in optimizers:
                _forget(optimizer, weight, pruned)


def check_masks(model: nn.Module) -> None:
    """Verify that every masked weight is exactly 0 wherever its mask is False.

    Raises:
        ValueError: names the first tensor that is not.
    """
    for name, module, own in _masked(model):
        _check_agreement(name, module._parameters[own], module._buffers[own + SUFFIX])


def check_state_masks(model: nn.Module, state_dict: Mapping[str, Tensor], prefix: str = '') -> None:
    """Verify that a state dict has the masks of the model, no others, and weights that agree with them.

    Args:
        model: with its masks registered.
        state_dict: what would be loaded into it.
        prefix: of the model's keys in ``state_dict``.

    Raises:
        ValueError: a mask is missing, too many, of another shape or not bool, or a weight is not 0 where pruned.
    """
    masks = get_masks(model)
    for name, mask in masks.items():
        if prefix + name + SUFFIX not in state_dict:
            raise ValueError(
                f'{type(model).__name__}: the state dict has no mask {prefix + name + SUFFIX!r}, '
                'but the model is pruned; load a pruned checkpoint, or load before pruning'
            )
        _check_entry(prefix + name, state_dict, mask)
    for key, value in state_dict.items():
        base = key.removesuffix(SUFFIX)
        if base == key or not key.startswith(prefix) or base not in state_dict:
            continue
        if base.removeprefix(prefix) not in masks and _is_mask_of(value, state_dict[base]):
            raise ValueError(
                f'{type(model).__name__}: the state dict has a mask {key!r}, but the model has none there; '
                'call register_masks_ before loading'
            )


def install_mask_hooks_(model: nn.Module) -> None:
    """Put gradient hooks where copying, pickling or a new parameter has lost them.

    Masked layers do this by themselves in every ordinary forward pass; a copy that is compiled before its first
    ordinary forward pass needs the call.
    """
    for _, module, _ in _masked(model):
        _restore_hooks(module, ())


def _attach(module: nn.Module, name: str) -> None:
    weight = module._parameters[name]
    module.register_buffer(name + SUFFIX, torch.ones_like(weight, dtype=torch.bool))
    if not any(hook is _restore_hooks for hook in module._forward_pre_hooks.values()):
        module.register_forward_pre_hook(_restore_hooks)
        module.register_load_state_dict_pre_hook(_check_before_load)
    _restore_hooks(module, ())


def _restore_hooks(module: nn.Module, _inputs: tuple) -> None:
    # A forward pre-hook, because deepcopy and pickle keep hooks of modules but drop those of parameters.
    if torch.compiler.is_compiling():
        return
    for name in _masked_names(module):
        weight = module._parameters[name]
        # a plain tensor stands in for the parameter in functional calls, whose gradient is the caller's affair
        if not isinstance(weight, nn.Parameter) or not weight.requires_grad:
            continue
        hooks = [hook for hook in (weight._backward_hooks or {}).values() if isinstance(hook, _MaskGradient)]
        if not any(hook.module is module for hook in hooks):
            weight.register_hook(_MaskGradient(module, name))


def _check_before_load(module: nn.Module, state_dict, prefix: str, *_unused) -> None:
    for name in _masked_names(module):
        key = prefix + name
        if key in state_dict and key + SUFFIX not in state_dict:
            raise ValueError(
                f'{type(module).__name__}: the state dict has {key!r} but no {key + SUFFIX!r}, '
                'and the layer is pruned; load a pruned checkpoint, or load before pruning'
            )
        if key + SUFFIX in state_dict:
            current = {key: module._parameters[name], **state_dict}
            _check_entry(key, current, module._buffers[name + SUFFIX])


def _check_entry(name: str, state_dict: Mapping[str, Tensor], own_mask: Tensor) -> None:
    mask = state_dict[name + SUFFIX]
    _check_mask(name, mask, own_mask, 'state dict')
    if name in state_dict and state_dict[name].shape == mask.shape:
        _check_agreement(name, state_dict[name], mask)


def _check_mask(name: str, mask: Tensor, like: Tensor, where: str) -> None:
    if mask.dtype != torch.bool:
        raise ValueError(f'{where}: the mask of {name!r} must be bool, got {mask.dtype}')
    if mask.shape != like.shape:
        raise ValueError(f'{where}: the mask of {name!r} has shape {tuple(mask.shape)}, its weight {tuple(like.shape)}')


def _check_agreement(name: str, weight: Tensor, mask: Tensor) -> None:
    wrong = int(torch.count_nonzero(weight.detach().masked_fill(mask.to(weight.device), 0)))
    if wrong:
        raise ValueError(
            f'{name!r} contradicts its mask: {wrong} pruned weights are not 0; '
            'the tensor was changed after pruning or belongs to another mask'
        )


def _forget(optimizer: Optimizer, weight: nn.Parameter, pruned: Tensor) -> None:
    for value in optimizer.state.get(weight, {}).values():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            value.masked_fill_(pruned.to(value.device), 0)


def _parameter_owners(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    owners, seen = {}, set()
    for prefix, module in model.named_modules():
        for own, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                owners[f'{prefix}.{own}' if prefix else own] = module, own
    return owners


def _masked(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    for prefix, module in model.named_modules():
        for own in _masked_names(module):
            yield (f'{prefix}.{own}' if prefix else own), module, own


def _masked_names(module: nn.Module) -> list[str]:
    return [
        name
        for name, parameter in module._parameters.items()
        if parameter is not None and _is_mask_of(module._buffers.get(name + SUFFIX), parameter)
    ]


def _is_mask_of(mask: Tensor | None, weight: Tensor) -> bool:
    return mask is not None and mask.dtype == torch.bool and mask.shape == weight.shape
