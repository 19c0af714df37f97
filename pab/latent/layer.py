"""What layers with a weight in use share: the forward pass, their converter, and the way back to plain layers."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..contracts import layers_with_weight_in_use
from ..converter import Converter
from ..pruners import apply_masks_, get_masks

Stream = Callable[[str], np.random.RandomState]


class LatentConv:
    """A convolution that multiplies by :meth:`used_weight`, a function of its frozen weight and of its latents.

    A mixin before ``nn.Conv2d``, or a subclass of it such as a PSG layer: that class then works on the weight in use,
    and what it passes back to that weight reaches the latents. The state dict has ``weight``, as it was drawn, and the
    latents. A weight that is 0 (pruned) should be 0 in use too.

    Where a latent decides which weights are used, a weight that is not has no gradient by which a pruner could score
    it: such a class sets ``scored_as_drawn``, and pruners see the layer with all of its weights.
    """

    plain: ClassVar[type[nn.Conv2d]]
    latents: ClassVar[tuple[str, ...]]
    scored_as_drawn: bool = False
    special_backward = True  # so pruning scores set exact for a while
    exact = False

    def used_weight(self) -> Tensor:
        """The weight that the forward pass multiplies by, of the shape of ``weight``, differentiable."""
        raise NotImplementedError

    def initialize_(self, stream: Stream) -> None:
        """Draw the latents, in place; ``stream(name)`` is the RandomState of the parameter ``name``."""
        raise NotImplementedError

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        as_drawn = self.exact and self.scored_as_drawn
        return super()._conv_forward(input, weight if as_drawn else self.used_weight(), bias)


class LatentConverter(Converter):
    """A converter to layers of :class:`LatentConv`; freezes their weights and gives them their latents."""

    kin = (_ConvNd,)

    def set_up(self, layer: LatentConv, name: str) -> None:
        layer.weight.requires_grad_(False)
        for latent in layer.latents:
            if latent not in layer._parameters:
                layer.register_parameter(latent, nn.Parameter(self.new_latent(layer, latent)))
        # numbers for networks that nobody initialises; a run draws them anew by its seed
        layer.initialize_(lambda own: np.random.RandomState(torch.randint(2**31, ()).item()))

    def new_latent(self, layer: LatentConv, latent: str) -> Tensor:
        """An empty tensor for a latent of a layer, by default one number for each weight."""
        return torch.empty_like(layer.weight)


@torch.no_grad()
def fill_(parameter: Tensor, values: np.ndarray) -> None:
    """Copy float64 numbers, in the order of entries, into a parameter."""
    parameter.copy_(torch.from_numpy(np.asarray(values).reshape(parameter.shape)).to(parameter.dtype))


@torch.no_grad()
def merge_latents_(network: nn.Module) -> list[str]:
    """Make layers with a weight in use plain ones, in place, whose weight is the one in use.

    Where that is 0 a mask says so, if the layer had a mask or there are such places. Logits stay the same bit for bit.
    Returns the names of the weights; there may be none.
    """
    layers, earlier = layers_with_weight_in_use(network), get_masks(network)
    used = {name: layer.used_weight().detach() for name, layer in layers.items()}  # before any of them changes
    for name, layer in layers.items():
        for latent in layer.latents:
            delattr(layer, latent)
        layer.__class__ = layer.plain
        layer.weight = nn.Parameter(used[name])  # a new one: layers that shared theirs may use it differently
    masks = {name: weight != 0 for name, weight in used.items()}
    apply_masks_(network, {name: mask for name, mask in masks.items() if name in earlier or not mask.all()})
    return list(layers)
