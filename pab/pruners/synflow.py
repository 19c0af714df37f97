"""SynFlow: how much of the total synaptic flow passes through a weight."""

from ..registry import PRUNERS
from .base import Pruner
from .network import ScoringNetwork, Tensors, as_leaves, gradients


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

    def score(self, weights: Tensors, network: ScoringNetwork, input_shape: tuple[int, int, int]) -> Tensors:
        leaves = as_leaves({name: w.abs() for name, w in weights.items()})
        ones = next(iter(weights.values())).new_ones(1, *input_shape)
        grads = gradients(network(leaves, ones, absolute=True).sum(), leaves)
        # in the memory of abs(w), which nobody else has
        return {name: leaf.detach().mul_(grads[name]).abs_() for name, leaf in leaves.items()}
