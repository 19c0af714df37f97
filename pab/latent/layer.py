"""Layers with a used weight: their forward pass, their converter, and the way back to plain layers."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from ..contracts import layers_with_used_weight
from ..converter import Converter
from ..pruners import apply_masks_, get_masks

Stream = Callable[[str], np.random.RandomState]


class LatentConv:
    """A convolution that multiplies by :meth:`used_weight`, a function of its weight and of its latents.

    A converter derives a class from a subclass of this one, ``mixin``, and the layer's own class, ``plain``, whose
    forward pass then reads the used weight; the gradient of that weight reaches the latents. The state dict has
    ``weight``, as it was drawn, and the latents. A weight of 0 (pruned) should be 0 in the used weight too.

    Where a latent decides which weights are used, an unused weight has no gradient to be scored by: such a class sets
    ``scored_as_drawn``, and pruners see the layer with all of its weights. A class that trains ``weight`` as well sets
    ``trains_weight``.
    """

    mixin: ClassVar[type['LatentConv']]
    plain: ClassVar[type[nn.Module]]
    latents: ClassVar[tuple[str, ...]]
    scored_as_drawn: bool = False
    trains_weight: ClassVar[bool] = False
    special_backward = True  # so pruning scores set exact for a while
    exact = False

    def used_weight(self) -> Tensor:
        """The weight that the forward pass multiplies by, of the shape of ``weight``, differentiable."""
        raise NotImplementedError

    def draw_latents_(self, stream: Stream) -> None:
        """Draw the latents, in place; ``stream(name)`` is the RandomState of the parameter ``name``."""
        raise NotImplementedError

    def initialize_(self, stream: Stream) -> None:
        """Draw the latents, and what the plain layer draws by itself."""
        if hasattr(self.plain, 'initialize_'):
            self.plain.initialize_(self, stream)
        self.draw_latents_(stream)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        if self.exact and self.scored_as_drawn:
            return super().forward(*args, **kwargs)
        drawn = self.weight
        self._parameters['weight'] = self.used_weight()  # so that any forward pass reads it
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._parameters['weight'] = drawn

    def __reduce_ex__(self, protocol: int) -> tuple:
        # no module holds the class of a converted layer, so a copy and a file name the two that it was made of
        new_object, (own_class, *arguments), *state = super().__reduce_ex__(protocol)
        return _new_layer, (new_object, own_class.mixin, own_class.plain, *arguments), *state


def _new_layer(new_object: Callable, mixin: type[LatentConv], plain: type[nn.Module], *arguments: Any) -> nn.Module:
    return new_object(latent_class(mixin, plain), *arguments)


@functools.cache
def latent_class(mixin: type[LatentConv], plain: type[nn.Module]) -> type[nn.Module]:
    """Derive the class of a plain layer with a latent, once for the same two."""
    name = mixin.__name__.removesuffix('Conv') + plain.__name__
    return type(name, (mixin, plain), {'mixin': mixin, 'plain': plain, '__module__': mixin.__module__})


class LatentConverter(Converter):
    """A converter to layers of ``mixin``, a :class:`LatentConv`; freezes their weights, unless they are
    trained too, and gives them their latents.

    Args:
        layers: patterns of :mod:`pab.patterns`; every convolution that they select, of any class, is converted if it
            has a parameter ``weight`` and no other latents.

    Raises:
        TypeError, ValueError: ``layers`` is no list of patterns, or selects nothing.
    """

    mixin: ClassVar[type[LatentConv]]
    kin = (_ConvNd,)
    types = 'convolutions with a parameter weight and without other latents'

    def __init__(self, layers: Sequence[str] = ('Conv2d',)) -> None:
        super().__init__(layers)

    @classmethod
    def adds_latents(cls) -> bool:
        return True

    def class_for(self, layer: nn.Module) -> type[nn.Module] | None:
        if isinstance(layer, LatentConv):
            return type(layer) if type(layer).mixin is self.mixin else None
        weight = layer._parameters.get('weight') if isinstance(layer, _ConvNd) else None
        return None if weight is None or is_lazy(weight) else latent_class(self.mixin, type(layer))

    def set_up(self, layer: LatentConv, name: str) -> None:
        if not layer.trains_weight:
            layer.weight.requires_grad_(False)
        for latent in layer.latents:
            if latent not in layer._parameters:
                layer.register_parameter(latent, nn.Parameter(self.new_latent(layer, latent)))
        # numbers for networks that nobody initialises; a run draws them anew by its seed
        layer.draw_latents_(lambda own: np.random.RandomState(torch.randint(2**31, ()).item()))

    def new_latent(self, layer: LatentConv, latent: str) -> Tensor:
        """An empty tensor for a latent of a layer, by default one number for each weight."""
        return torch.empty_like(layer.weight)


@torch.no_grad()
def merge_latents_(network: nn.Module) -> list[str]:
    """Make layers with a used weight plain ones, in place, whose weight is the used one.

    A mask marks its zeros, if the layer had a mask or there are zeros. Logits stay the same bit for bit. Returns the
    names of the weights; there may be none.
    """
    layers, earlier = layers_with_used_weight(network), get_masks(network)
    used = {name: layer.used_weight().detach() for name, layer in layers.items()}  # before any of them changes
    for name, layer in layers.items():
        for latent in layer.latents:
            delattr(layer, latent)
        layer.__class__ = layer.plain
        layer.weight = nn.Parameter(used[name])  # a new one: layers that shared theirs may use it differently
    masks = {name: weight != 0 for name, weight in used.items()}
    apply_masks_(network, {name: mask for name, mask in masks.items() if name in earlier or not mask.all()})
    return list(layers)
