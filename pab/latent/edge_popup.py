"""Edge-popup: a score for each weight, and the weights with the highest scores are used as they were drawn."""

from collections.abc import Sequence
from fractions import Fraction
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import known_choice
from ..models import draws
from ..pruners import kept_count
from ..pruners.schedules import as_density
from ..psg.layers import PSGConv2d
from ..registry import CONVERTERS
from .layer import LatentConv, LatentConverter, Stream, fill_


def highest(scores: Tensor, count: int) -> Tensor:
    """Mark exactly the ``count`` highest scores (1 <= count <= N), True in a bool tensor of their shape.

    Of equal scores the lower index is marked. Nothing waits for the device.
    """
    flat = scores.reshape(-1)
    last = flat.kthvalue(len(flat) - count + 1).values
    above, equal = flat > last, flat == last
    return (above | (equal & (equal.cumsum(0) <= count - above.sum()))).view(scores.shape)


class _Use(torch.autograd.Function):
    """``weight`` where ``kept``, else 0; the gradient of every score is that of a factor on its weight."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, weight: Tensor, kept: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return weight * kept  # torch.where would lose the weight's memory format

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.saved_tensors[0], None, None


class EdgePopupConv(LatentConv):
    """The weight in use is that of the highest |scores|; see :class:`EdgePopup`."""

    latents = ('scores',)
    density: Fraction
    through_abs: bool
    group: 'GlobalGroup | None' = None

    def kept(self) -> Tensor:
        """True where the weight is used."""
        if self.group is not None:
            return self.group.kept(self)
        return highest(self.scores.detach().abs(), kept_count(self.scores.numel(), self.density))

    def candidate(self, kept: Tensor) -> Tensor:
        """What each weight is when it is used."""
        return self.weight

    def used_weight(self) -> Tensor:
        kept = self.kept()
        return _Use.apply(self.scores.abs() if self.through_abs else self.scores, self.candidate(kept), kept)

    def initialize_(self, stream: Stream) -> None:
        bound = self.weight[0].numel() ** -0.5
        fill_(self.scores, bound * draws.uniform(stream('scores'), self.scores.numel()))


class GlobalGroup:
    """Layers whose scores compete; a hook before the network's forward pass chooses for all of them at once."""

    def __init__(self, layers: list[EdgePopupConv], density: Fraction) -> None:
        self.layers, self.density = layers, density
        self.chosen: list[Tensor] | None = None  # while the network's forward pass runs

    def kept(self, layer: EdgePopupConv) -> Tensor:
        """True where a layer's weight is used."""
        chosen = self.choose() if self.chosen is None else self.chosen
        return next(kept for own, kept in zip(self.layers, chosen, strict=True) if own is layer)

    def choose(self) -> list[Tensor]:
        """For each layer, True where its weight is used."""
        flat = torch.cat([layer.scores.detach().abs().reshape(-1) for layer in self.layers])
        parts = highest(flat, kept_count(len(flat), self.density)).split(
            [layer.scores.numel() for layer in self.layers]
        )
        return [part.view(layer.scores.shape) for part, layer in zip(parts, self.layers, strict=True)]

    def begin(self, _network: nn.Module, _inputs: tuple) -> None:
        """Choose, unless the layers have become plain ones."""
        self.chosen = self.choose() if hasattr(self.layers[0], 'scores') else None

    def end(self, _network: nn.Module, _inputs: tuple, _output: Tensor) -> None:
        """Forget."""
        self.chosen = None


class EdgePopupConv2d(EdgePopupConv, nn.Conv2d):
    plain = nn.Conv2d


class EdgePopupPSGConv2d(EdgePopupConv, PSGConv2d):
    plain = PSGConv2d


@CONVERTERS.register_module()
class EdgePopup(LatentConverter):
    r"""Learn a score for each weight; the weights with the highest scores are used, as they were drawn.

    .. math:: w_\text{used} = w \cdot [\,|s| \text{ is among the } k \text{ largest}\,], \quad
              \frac{\partial L}{\partial s} = \frac{\partial L}{\partial w_\text{used}} \, w

    for the scores of all weights, used or not (straight through). Of the N weights of a layer, or with scope 'global'
    of all layers that the converter converts, exactly :math:`k = N - \lfloor (1 - d) N \rfloor` are used; of equal
    scores the lower position counts as higher. Scores start as torch's default weights do, uniform within
    1 / sqrt(fan_in).

    Paper and code differ: the code differentiates abs(s) too, which multiplies the gradient by sign(s). The rule above
    is taken, unless ``through_abs`` is set.

    The parameters are ``scores``, of the weights' shape, for an ordinary optimizer: ``owns=['Conv2d.scores']``. As in
    the paper, networks have BatchNorm without scale and shift (:class:`AffineFreeBatchNorm`) and signed constant
    weights (``init=dict(scheme='kaiming_constant_signed', fan_share=d)``).

    Args:
        density: d, the share of the weights that are used, in (0, 1].
        scope: 'local', the density in every layer, or 'global'.
        through_abs: differentiate the absolute value too.
        layers: patterns of :mod:`pab.patterns`; of what they select, convolutions and PSG convolutions are converted.

    Source: Ramanujan et al. 2020, "What's Hidden in a Randomly Weighted Neural Network?" (arXiv 1911.13299).
    """

    classes = {nn.Conv2d: EdgePopupConv2d, PSGConv2d: EdgePopupPSGConv2d}

    def __init__(
        self, density: Real, scope: str = 'local', through_abs: bool = False, layers: Sequence[str] | None = None
    ) -> None:
        me = type(self).__name__
        known_choice(me, 'scope', scope, ('local', 'global'))
        if not isinstance(through_abs, bool):
            raise TypeError(f'{me}: through_abs must be True or False, got {through_abs!r}')
        super().__init__(layers)
        self.density, self.scope, self.through_abs = as_density(density, me), scope, through_abs

    def set_up(self, layer: EdgePopupConv, name: str) -> None:
        layer.density, layer.through_abs, layer.group = self.density, self.through_abs, None
        super().set_up(layer, name)

    def __call__(self, network: nn.Module) -> nn.Module:
        super().__call__(network)
        if self.scope == 'global':
            layers = [layer for layer in network.modules() if type(layer) in self.classes.values()]
            group = GlobalGroup(layers, self.density)
            for layer in layers:
                layer.group = group
            network.register_forward_pre_hook(group.begin)
            network.register_forward_hook(group.end, always_call=True)
        return network
