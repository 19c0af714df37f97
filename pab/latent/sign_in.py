"""Sign-In: a product of two trained parameters in the place of each weight, so that it crosses 0 more easily."""

from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from ..registry import CONVERTERS
from .layer import LatentConv, LatentConverter, Stream


class SignInConv(LatentConv):
    """The used weight is factor * weight; see :class:`SignIn`."""

    latents = ('factor',)
    trains_weight = True
    balance: float

    def used_weight(self) -> Tensor:
        return self.factor * self.weight

    @torch.no_grad()
    def draw_latents_(self, stream: Stream) -> None:
        """Set every factor to 1; nothing is drawn."""
        self.factor.fill_(1)

    @torch.no_grad()
    def rebalance_(self) -> None:
        """Set factor^2 - weight^2 to the balance everywhere; the used weight stays, up to rounding."""
        used = self.used_weight()
        self.factor.copy_((((4 * used**2 + self.balance**2).sqrt() + self.balance) / 2).sqrt())
        self.weight.copy_(used / self.factor)


@CONVERTERS.register_module()
class SignIn(LatentConverter):
    r"""Train two parameters, a weight w and its factor m, in the place of each weight; the layer uses their product.

    .. math:: w_\text{used} = m\, w, \quad
              \frac{\partial L}{\partial m} = \frac{\partial L}{\partial w_\text{used}}\, w, \quad
              \frac{\partial L}{\partial w} = \frac{\partial L}{\partial w_\text{used}}\, m

    A step of gradient descent moves the product by :math:`m^2 + w^2 = \sqrt{b^2 + 4 w_\text{used}^2}` times that of an
    ordinary weight, where :math:`b = m^2 - w^2`: large weights move faster, and with b > 0 none stops at 0, so that
    signs change. Noise and weight decay bring b to 0; :class:`~pab.hooks.SignInHook` sets it back. Every m starts at 1,
    so the network starts as the plain one. A mask stays in force, as a pruned w is 0.

    The parameters are ``weight`` and ``factor``, of the same shape, for one ordinary optimizer (``owns='rest'``).
    Their product is stored as any trained weight.

    Args:
        balance: b, to which :meth:`SignInConv.rebalance_` sets every weight; a number above 0, else ValueError.
        layers: which convolutions; see :class:`~pab.latent.LatentConverter`.

    Source: Gadhikar et al. 2025, "Sign-In to the Lottery" (arXiv 2504.12801), which has b = 1 from the start.
    """

    mixin = SignInConv

    def __init__(self, balance: Real = 1.0, layers: Sequence[str] = ('Conv2d',)) -> None:
        if isinstance(balance, bool) or not isinstance(balance, Real) or not 0 < balance < float('inf'):
            raise ValueError(f'SignIn: balance must be a number above 0, got {balance!r}; with 0 signs hardly change')
        super().__init__(layers)
        self.balance = float(balance)

    def set_up(self, layer: SignInConv, name: str) -> None:
        layer.balance = self.balance
        super().set_up(layer, name)
