"""Latent signs: a trained number for each weight says how it is used, and the weight itself never changes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import known_choice
from ..models.initialization import fill_
from ..registry import CONVERTERS
from .layer import LatentConv, LatentConverter, Stream

# the interval in which t starts
MODES = {'flipping': (0.01, 0.1), 'pruning': (0.01, 0.1), 'ternary': (-1.0, 1.0)}
BOUNDS = {'lo': -0.1, 'hi': 0.1}  # where they start


class _Sign(torch.autograd.Function):
    """sign(u), or with ``of_positive`` sign(relu(u)), with the gradient 1 everywhere."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, of_positive: bool = False) -> Tensor:
        return (u.relu() if of_positive else u).sign()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class LatentSignConv(LatentConv):
    """The used weight is a(latent) * weight; see :class:`LatentSigns`."""

    mode: str

    @property
    def scored_as_drawn(self) -> bool:
        """See :class:`LatentConv`."""
        return self.mode == 'ternary'

    @property
    def latents(self) -> tuple[str, ...]:
        return ('latent', *BOUNDS) if self.mode == 'ternary' else ('latent',)

    def used_weight(self) -> Tensor:
        return self.sign() * self.weight

    def sign(self) -> Tensor:
        """a, of the shape of the weight: -1, 0 or 1."""
        if self.mode != 'ternary':
            return _Sign.apply(self.latent, self.mode == 'pruning')
        above, below = (self.latent - self.hi).relu(), (self.lo - self.latent).relu()
        return _Sign.apply(above) - _Sign.apply(below)

    def draw_latents_(self, stream: Stream) -> None:
        low, high = MODES[self.mode]
        fill_(self.latent, low + (high - low) * stream('latent').random_sample(self.latent.numel()))
        for name in self.latents[1:]:
            fill_(getattr(self, name), BOUNDS[name])


@CONVERTERS.register_module()
class LatentSigns(LatentConverter):
    r"""Learn how each weight is used by a latent number t of its own; the weight w stays as it was drawn.

    .. math:: w_\text{used} = a(t)\, w, \quad a(t) = \begin{cases}
              \operatorname{sign}(t) & \text{flipping} \\
              \operatorname{sign}(\operatorname{relu}(t)) & \text{pruning} \\
              \operatorname{sign}(\operatorname{relu}(t - hi)) - \operatorname{sign}(\operatorname{relu}(lo - t))
              & \text{ternary} \end{cases}

    The gradient of every sign is taken as 1, also that of sign(relu(t)) as a whole; in 'ternary' it reaches t, lo and
    hi only where a relu is active. t starts uniform in [0.01, 0.1), in 'ternary' in [-1, 1); lo and hi, one pair for
    each layer, start at -0.1 and 0.1 and are trained. A mask stays in force, as a pruned w is 0. With ``PSG`` before it
    in the list of converters, the gradient of the used weight is PSG's.

    The parameters are ``latent`` (of the weight's shape), ``lo`` and ``hi`` ((1,)), for an ordinary optimizer, such as
    SGD with a learning rate of 1: ``owns=['Conv2d.latent']``.

    Args:
        mode: 'flipping', 'pruning' or 'ternary'.
        layers: which convolutions; see :class:`~pab.latent.LatentConverter`.

    Source: the seed networks in the published code of Peek-a-Boo (ICLR 2022).
    """

    mixin = LatentSignConv

    def __init__(self, mode: str = 'flipping', layers: Sequence[str] = ('Conv2d',)) -> None:
        known_choice('LatentSigns', 'mode', mode, MODES)
        super().__init__(layers)
        self.mode = mode

    def set_up(self, layer: LatentSignConv, name: str) -> None:
        layer.mode = self.mode
        super().set_up(layer, name)

    def new_latent(self, layer: LatentSignConv, latent: str) -> Tensor:
        return layer.weight.new_empty(1) if latent in BOUNDS else super().new_latent(layer, latent)
