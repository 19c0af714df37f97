"""Edge-popup: a score for each weight, and the weights with the highest scores are used as they were drawn."""

from collections.abc import Sequence
from fractions import Fraction
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import known_choice
from ..models import draws
from ..models.initialization import fill_
from ..pruners import kept_count
from ..pruners.schedules import as_density
from ..registry import CONVERTERS
from .layer import LatentConv, LatentConverter, Stream
from .ranking import GlobalRanking, highest


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
    """The used weight is that of the highest |scores|; see :class:`EdgePopup`."""

    latents = ('scores',)
    scored_as_drawn = True
    density: Fraction
    through_abs: bool
    ranking: GlobalRanking | None = None

    def kept(self) -> Tensor:
        """True where the weight is used."""
        if self.ranking is not None:
            return self.ranking.kept(self)
        return highest(self.ranks(), kept_count(self.scores.numel(), self.density))

    def ranks(self) -> Tensor:
        """|scores|; a pruned weight ranks behind every other."""
        return self.scores.detach().abs().masked_fill(self.weight == 0, -1)

    def candidate(self, kept: Tensor) -> Tensor:
        """The value of each weight when it is used."""
        return self.weight

    def used_weight(self) -> Tensor:
        kept = self.kept()
        return _Use.apply(self.scores.abs() if self.through_abs else self.scores, self.candidate(kept), kept)

    def draw_latents_(self, stream: Stream) -> None:
        bound = self.weight[0].numel() ** -0.5
        fill_(self.scores, bound * draws.uniform(stream('scores'), self.scores.numel()))


@CONVERTERS.register_module()
class EdgePopup(LatentConverter):
    r"""Learn a score for each weight; the weights with the highest scores are used, as they were drawn.

    .. math:: w_\text{used} = w \cdot [\,|s| \text{ is among the } k \text{ largest}\,], \quad
              \frac{\partial L}{\partial s} = \frac{\partial L}{\partial w_\text{used}} \, w \operatorname{sign}(s)

    for the scores of all weights, used or not (straight through). Of the N weights of a layer, or with scope 'global'
    of all its layers, exactly :math:`k = N - \lfloor (1 - d) N \rfloor` are used; of equal
    scores the lower position counts as higher. Pruned weights count among the N and are never used. Scores start as
    torch's default weights do, uniform within 1 / sqrt(fan_in). The paper scores the classifier too; here it is trained
    as in other methods.

    Paper and code differ: the paper's gradient has no factor sign(s), which the code has by differentiating abs(s). The
    code's is taken. Without it a negative score grows in size where its weight does harm, until the weight is used.

    The parameters are ``scores``, of the weights' shape, for an ordinary optimizer: ``owns=['Conv2d.scores']``. As in
    the paper, networks have BatchNorm without scale and shift (:class:`AffineFreeBatchNorm`) and signed constant
    weights (``init=dict(scheme='kaiming_constant_signed', fan_share=d)``).

    Args:
        density: d, the share of the weights that are used, in (0, 1].
        scope: 'local', the density in every layer, or 'global'.
        through_abs: False takes the paper's gradient.
        layers: which convolutions; see :class:`~pab.latent.LatentConverter`.

    Source: Ramanujan et al. 2020, "What's Hidden in a Randomly Weighted Neural Network?" (arXiv 1911.13299).
    """

    mixin = EdgePopupConv

    def __init__(
        self, density: Real, scope: str = 'local', through_abs: bool = True, layers: Sequence[str] = ('Conv2d',)
    ) -> None:
        me = type(self).__name__
        known_choice(me, 'scope', scope, ('local', 'global'))
        super().__init__(layers)
        self.density, self.scope, self.through_abs = as_density(density, me), scope, through_abs

    def set_up(self, layer: EdgePopupConv, name: str) -> None:
        layer.density, layer.through_abs, layer.ranking = self.density, self.through_abs, None
        self._converted.append(layer)
        super().set_up(layer, name)

    def __call__(self, network: nn.Module) -> nn.Module:
        self._converted: list[EdgePopupConv] = []
        super().__call__(network)
        if self.scope == 'global':
            GlobalRanking(self._converted, self.density).watch(network)
        return network
