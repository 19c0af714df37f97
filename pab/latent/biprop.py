"""Biprop: edge-popup with binary weights."""

from torch import Tensor

from ..registry import CONVERTERS
from .edge_popup import EdgePopup, EdgePopupConv


class BipropConv(EdgePopupConv):
    """The used weight is that of the highest |scores|, each with the sign that was drawn and one magnitude."""

    def candidate(self, kept: Tensor) -> Tensor:
        used = self.weight * kept
        magnitude = used.abs().sum() / used.count_nonzero().clamp(min=1)  # there may be none
        return self.weight.sign() * magnitude


@CONVERTERS.register_module()
class Biprop(EdgePopup):
    r"""Learn a score for each weight; of the weights with the highest scores the signs are used, in one magnitude.

    .. math:: w_\text{used} = \alpha \operatorname{sign}(w) \cdot [\,|s| \text{ among the } k \text{ largest}\,], \quad
              \alpha = \text{mean of } |w| \text{ over the layer's used weights}, \quad
              \frac{\partial L}{\partial s} = \frac{\partial L}{\partial w_\text{used}} \, \alpha \operatorname{sign}(w)
              \operatorname{sign}(s)

    Scores, scope and arguments are those of :class:`EdgePopup`. The paper's code leaves alpha out of the gradient of s;
    here the gradient is that of the used weight. The two differ by one positive factor for each layer.

    Source: Diffenderfer and Kailkhura 2021, "Multi-Prize Lottery Ticket Hypothesis" (arXiv 2103.09377).
    """

    mixin = BipropConv
