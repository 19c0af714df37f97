"""Layers without the channels that nothing needs: for good, or for a while."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..state_dicts import MASK
from .channels import Cut

TENSORS = ('weight', 'bias', 'running_mean', 'running_var')


@torch.no_grad()
def cut_(network: nn.Module, cuts: Mapping[str, Cut]) -> nn.Module:
    """Make the layers of a network smaller, in place, and return it.

    Args:
        network: without masks.
        cuts: of :func:`~pab.narrowing.channels.find_cuts` for it.
    """
    for name, cut in cuts.items():
        layer = network.get_submodule(name)
        for own in TENSORS:
            if (tensor := getattr(layer, own, None)) is not None:
                part = take(tensor, cut)
                setattr(layer, own, nn.Parameter(part, tensor.requires_grad) if own in layer._parameters else part)
        if cut.shift is not None:
            shift = cut.shift if layer.bias is None else layer.bias.double() + cut.shift.to(layer.bias.device)
            layer.bias = nn.Parameter(shift.to(layer.weight), layer.weight.requires_grad)
        layer.__dict__.update(_sizes(layer, cut))
    return network


class TrainedPart:
    """The channels of a network that a training needs, in place of all of them.

    Between :meth:`enter` and :meth:`leave` parameters, their gradients and masks, the state of their optimizers and the
    statistics of BatchNorm are smaller tensors; parameter objects, names and hooks stay. What is left out does not
    change in the meantime, weight decay included.

    Args:
        network: whose layers are cut.
        cuts: of :func:`~pab.narrowing.channels.find_cuts` for its masks.

    Example:
        >>> part = TrainedPart(network, find_cuts(network, (3, 32, 32), get_masks(network)))
        >>> part.enter([optimizer])  # steps of the optimizer, then
        >>> part.leave()
        >>> torch.save(network.state_dict(), 'whole.pth')
    """

    def __init__(self, network: nn.Module, cuts: Mapping[str, Cut]) -> None:
        self._cuts = [(name, network.get_submodule(name), cut) for name, cut in cuts.items()]
        self._sizes = [{key: getattr(layer, key) for key in _sizes(layer, cut)} for _, layer, cut in self._cuts]
        self._whole: dict[tuple, Tensor] | None = None  # (layer, name of a tensor, what it is to it) -> tensor
        self._optimizers: list[Optimizer] = []

    @torch.no_grad()
    def enter(self, optimizers: Iterable[Optimizer]) -> None:
        """Make the layers smaller; ``optimizers`` are those of their parameters. Between the two it does nothing."""
        if self._whole is not None:
            return
        self._whole, self._optimizers = {}, list(optimizers)

        def smaller(key: tuple, tensor: Tensor, cut: Cut) -> Tensor:
            self._whole[key] = tensor
            return take(tensor, cut)

        self._replace(smaller)
        for _, layer, cut in self._cuts:
            layer.__dict__.update(_sizes(layer, cut))

    @torch.no_grad()
    def leave(self) -> None:
        """Put the parts back into the whole tensors; outside of the two it does nothing.

        ValueError, when all is in its place, if a mask has changed: what it keeps by now would not be what trains.
        """
        if self._whole is None:
            return
        whole, changed = self._whole, []
        self._whole = None

        def whole_again(key: tuple, part: Tensor, cut: Cut) -> Tensor:
            if (tensor := whole.get(key)) is None:  # a gradient or a state from after enter: it is 0 for all else
                tensor = _zeros(part, whole[(*key[:2], '')], cut)
            if key[1].endswith(MASK) and not torch.equal(part, take(tensor, cut)):
                changed.append(key[0])
            return put(part, cut, tensor)

        self._replace(whole_again)
        for (_, layer, _), sizes in zip(self._cuts, self._sizes, strict=True):
            layer.__dict__.update(sizes)
        if changed:
            raise ValueError(f'narrow: the mask of {changed[0]} has changed while its dead channels were left out')

    def _replace(self, change: Callable[[tuple, Tensor, Cut], Tensor]) -> None:
        """Change the tensors of all layers, and what belongs to a parameter: its gradient, its state."""
        for name, layer, cut in self._cuts:
            for own in (own for base in TENSORS for own in (base, base + MASK)):
                if (tensor := getattr(layer, own, None)) is None:
                    continue
                if own in layer._buffers:
                    layer._buffers[own] = change((name, own, ''), tensor, cut)
                    continue
                grad, shape, tensor.grad = tensor.grad, tensor.shape, None
                tensor.data = change((name, own, ''), tensor.detach(), cut)
                if grad is not None:
                    tensor.grad = change((name, own, 'grad'), grad, cut)
                for number, state in enumerate(optimizer.state.get(tensor, {}) for optimizer in self._optimizers):
                    for key, value in state.items():
                        if isinstance(value, Tensor) and _is_laid_over(value.shape, shape):
                            state[key] = change((name, own, number, key), value, cut)


def take(tensor: Tensor, cut: Cut) -> Tensor:
    """The part of a layer's tensor that stays, a copy in its memory format."""
    part = tensor
    for dim, at in enumerate(_kept(tensor, cut)):
        part = part.index_select(dim, at)
    channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return part.contiguous(memory_format=torch.channels_last) if channels_last else part


def put(part: Tensor, cut: Cut, whole: Tensor) -> Tensor:
    """Write what :func:`take` gave back into the whole tensor, and return that."""
    outputs, *inputs = _kept(whole, cut)
    if inputs:
        whole[outputs[:, None], inputs[0]] = part
        return whole
    return whole.index_copy_(0, outputs, part)


def _kept(tensor: Tensor, cut: Cut) -> list[Tensor]:
    """What stays of a layer's tensor in its first dimensions; a dimension of size 1 is that of all channels."""
    kept = [cut.outputs] if tensor.dim() < 2 or cut.inputs is None else [cut.outputs, cut.inputs]
    return [
        (at if size > 1 else at.new_zeros(1)).to(tensor.device) for at, size in zip(kept, tensor.shape, strict=False)
    ]


def _is_laid_over(state: torch.Size, param: torch.Size) -> bool:
    """True for a state of its parameter's shape, or with 1 in place of some sizes (Adafactor's rows and columns)."""
    return len(state) == len(param) > 0 and all(own in (1, size) for own, size in zip(state, param, strict=True))


def _zeros(part: Tensor, whole: Tensor, cut: Cut) -> Tensor:
    """Zeros for all channels in the place of a part that is laid over the part of ``whole``."""
    smaller = take(whole, cut).shape
    sizes = [1 if own < size else all_ for own, size, all_ in zip(part.shape, smaller, whole.shape, strict=True)]
    return torch.zeros_like(whole[tuple(slice(size) for size in sizes)], dtype=part.dtype)


def _sizes(layer: nn.Module, cut: Cut) -> dict[str, int]:
    """The attributes of a layer that tell its size, as they are behind a cut."""
    inputs = cut.outputs if cut.inputs is None else cut.inputs
    sizes = {'out_channels': cut.outputs, 'out_features': cut.outputs, 'num_features': cut.outputs}
    sizes |= {'in_channels': inputs, 'in_features': inputs}
    sizes |= {'groups': inputs} if cut.inputs is None else {}  # a depthwise convolution
    return {name: len(kept) for name, kept in sizes.items() if hasattr(layer, name)}
