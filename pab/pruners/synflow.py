"""SynFlow: how much of the total synaptic flow passes through a weight."""

import torch
from torch import Tensor

from ..registry import PRUNERS
from .base import Pruner
from .flow import total_flow
from .network import ScoringNetwork, as_leaves, gradients


@PRUNERS.register_module()
class SynFlow(Pruner):
    r"""Score a weight by the flow through it in the network of absolute values; needs the input's shape, no data.

    .. math:: S = \left| w \frac{\partial R}{\partial w} \right|, \quad R = \sum_k f(\mathbb{1}; |\theta|)_k

    with every parameter and buffer replaced by its absolute value, statistics of BatchNorm included. At initialisation
    those are the identity; on a trained network their absolute values distort the score.

    At a low density the flow leaves small tensors beside large ones, such as 1x1 shortcuts, until they are empty: the
    pruner warns by name, and ``min_per_tensor`` is the way out.

    Source: Tanaka et al. 2020 (arXiv 2006.05467), which takes 100 rounds on an exponential schedule.
    """

    def score(
        self,
        magnitudes: dict[str, Tensor],
        network: ScoringNetwork,
        input_shape: tuple[int, int, int],
        out: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        leaves = as_leaves(magnitudes)
        grads = gradients(total_flow(network.absolute(), leaves, input_shape, out), leaves)
        # nothing in the network of absolute values is negative, so neither is w * dR/dw
        return {name: torch.mul(magnitudes[name], grads[name], out=out[name]) for name in leaves}
