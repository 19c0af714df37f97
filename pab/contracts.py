"""Attributes and methods that pab asks of layers and optimizers by their names alone; there is no class to derive from.

**A layer with a special backward pass** computes other gradients than those of its forward pass. Its class has
``special_backward = True`` and ``exact = False``. While :func:`exact_gradients` sets ``exact``, its forward pass
must lead to the ordinary gradients; pruning scores rely on that. If its own gradients are not proportional to the
loss, ``loss_scale_conflict()`` returns the reason (None: they are), and training in float16, which scales the loss, is
refused. If the operands of its weight gradient have fewer bits than 32, ``weight_gradient_bits`` gives them, (input,
output gradient), for the costs of a run.

**A sign optimizer** has ``last_flips``: the number of weights that the last step flipped, an int64 tensor of no
dimensions on the device, or None before the first step. ``FlipCountHook`` reads it and sets it to None, so that every
step is counted once. :class:`pab.optim.SignOptimizer` offers all of this for a rule of a few lines. It may also have:

- ``adaptivity_rate`` in its parameter groups: ``ARDecayHook`` and param schedulers lower it;
- ``state[param]['tensor_flips']``: the flips of the whole tensor so far, int64 of no dimensions, for reports by layer;
- ``state[param]['weight_flips']``: the flips of every weight so far, int32 of the parameter's shape, kept where the
  parameter group has ``flips_per_weight=True``; the pruner ``FlipFreq`` reads it.

- ``state[param]['tensor_moves']``: the weights of the tensor that have changed places so far, int64 of no dimensions,
  for reports by layer.

A sign optimizer that changes a mask calls :func:`want_pruned_gradients`; the masks of :mod:`pab.pruners` otherwise set
the gradient of pruned weights to 0, and costs count it as not computed.

torch's ``Optimizer.load_state_dict`` would turn these counts into floats, so an optimizer with counts restores them
itself.

**A layer with a used weight** multiplies by another weight than its parameter ``weight``, which is frozen unless its
class has ``trains_weight = True``; then no seed gives the magnitudes. Its
``used_weight()`` returns that weight, of the same shape, computed from ``weight`` and the layer's own parameters named
in ``latents``; ``plain`` is the class that the layer would have without them. :func:`pab.latent.merge_latents_` makes
such layers plain ones, for files and other programs; reports and costs count the used weights.
:class:`pab.latent.LatentConv` offers all of this for a convolution.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

_wanted = WeakTensorKeyDictionary()  # not an attribute of the parameter, which would be pickled with it


def special_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, layer) of every layer with a special backward pass; TypeError for one that has no ``exact``."""
    for name, module in model.named_modules():
        kind = type(module)
        if getattr(kind, 'special_backward', False):
            if not hasattr(kind, 'exact'):
                raise TypeError(
                    f'{kind.__name__}: a class with special_backward = True needs exact = False too, which its forward '
                    'pass reads: while it is True, gradients must be the ordinary ones'
                )
            yield name, module


@contextmanager
def exact_gradients(model: nn.Module) -> Iterator[None]:
    """Give every layer of a model the ordinary backward pass for the length of a ``with`` block, also when it raises.

    The switch counts at the time of the forward pass: the backward pass of an earlier one is still the special one.
    """
    before = [(layer, layer.exact) for _, layer in special_layers(model)]
    try:
        for layer, _ in before:
            layer.exact = True
        yield
    finally:
        for layer, exact in before:
            layer.exact = exact


def loss_scale_conflicts(model: nn.Module) -> Iterator[tuple[str, str]]:
    """(layer name, reason) for every layer whose gradients are not proportional to the loss."""
    for name, layer in special_layers(model):
        reason = layer.loss_scale_conflict() if hasattr(layer, 'loss_scale_conflict') else None
        if reason:
            yield name, reason


def layers_with_used_weight(network: nn.Module) -> dict[str, nn.Module]:
    """Full name of the parameter ``weight`` -> its layer, for every layer that multiplies by another weight."""
    named = {f'{name}.weight'.removeprefix('.'): layer for name, layer in network.named_modules()}
    return {name: layer for name, layer in named.items() if hasattr(layer, 'used_weight')}


def names_of_latents(network: nn.Module) -> set[str]:
    """Full names of the latents of all layers with a used weight."""
    layers = layers_with_used_weight(network)
    return {name.removesuffix('weight') + latent for name, layer in layers.items() for latent in layer.latents}


def sign_optimizers(optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    """Select the optimizers that flip signs."""
    return [optimizer for optimizer in optimizers if hasattr(optimizer, 'last_flips')]


def sign_trained(network: nn.Module, optimizers: Iterable[Optimizer]) -> dict[str, nn.Parameter]:
    """Name -> parameter of a network, for the parameters of sign optimizers."""
    groups = [group for optimizer in sign_optimizers(optimizers) for group in optimizer.param_groups]
    owned = {param for group in groups for param in group['params']}
    return {name: param for name, param in network.named_parameters() if param in owned}


def learning_rates(optimizers: Iterable[Optimizer]) -> list[dict[str, Any]]:
    """The parameter groups whose ``lr`` is a learning rate; that of a sign optimizer is a factor on another setting."""
    return [group for o in optimizers if not sign_optimizers([o]) for group in o.param_groups if 'lr' in group]


def counts_of(optimizers: Iterable[Optimizer], name: str) -> dict[nn.Parameter, Tensor]:
    """Parameter -> its count ``name`` (above), where a sign optimizer has it in its state."""
    states = [item for optimizer in sign_optimizers(optimizers) for item in optimizer.state.items()]
    return {param: state[name] for param, state in states if name in state}


def want_pruned_gradients(param: nn.Parameter, wanted: Callable[[], bool]) -> None:
    """Ask for the gradient of a parameter's pruned weights while ``wanted()`` is true; each backward pass calls it."""
    _wanted[param] = wanted


def wants_pruned_gradients(param: Tensor) -> bool:
    """Tell if the gradient of a parameter's pruned weights is asked for now."""
    wanted = _wanted.get(param)
    return wanted is not None and wanted()
