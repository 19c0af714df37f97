"""SynFlow: how much of the total synaptic flow passes through a weight."""

from typing import Any

from ..registry import PRUNERS
from .base import Pruner
from .flow import fill_zero_weight
from .scoring_network import ScoringNetwork, Tensors, as_leaves, gradients


@PRUNERS.register_module()
class SynFlow(Pruner):
    r"""Score a weight by the flow through it in the network of absolute values; needs the input's shape, no data.

    .. math:: S = \left| w \frac{\partial R}{\partial w} \right|, \quad R = \sum_k f(\mathbb{1}; |\theta|)_k

    with every parameter and buffer replaced by its absolute value, statistics of BatchNorm included. At initialisation
    those are the identity; on a trained network their absolute values distort the score.

    An activation is assumed to pass positive values on unchanged, and every output to be reached. With ``keep_flow``
    stand-ins see to it while scoring (:mod:`pab.pruners.flow`): ReLU for ReLU6, Hardswish, SiLU and GELU, open gates
    for sigmoids and attention weights, scale and shift for LayerNorm, a constant for a weight that is 0 throughout, 1
    for a layer scale; the factors of a product share its flow. They are ours; a network of ReLUs and plain convolutions
    has none, and the same masks with and without.

    At a low density the flow leaves small tensors beside large ones, such as 1x1 shortcuts, until they are empty: the
    pruner warns by name, and ``min_per_tensor`` is the way out.

    Args:
        keep_flow: whether to score with the stand-ins.
        settings: those of :class:`~pab.pruners.base.Pruner`.

    Raises:
        ValueError: in ``prune``, the network takes no input of ones of the given shape, such as one of token ids.

    Source: Tanaka et al. 2020 (arXiv 2006.05467), which takes 100 rounds on an exponential schedule.
    """

    def __init__(self, *args: Any, keep_flow: bool = True, **settings: Any):
        super().__init__(*args, **settings)
        self.keep_flow = keep_flow

    def score(
        self, weights: Tensors, masks: Tensors, network: ScoringNetwork, input_shape: tuple[int, int, int]
    ) -> Tensors:
        leaves = {name: w.abs() for name, w in weights.items()}
        if self.keep_flow:
            leaves = {name: fill_zero_weight(name, w, masks[name]) for name, w in leaves.items()}
        leaves = as_leaves(leaves)
        ones = next(iter(weights.values())).new_ones(1, *input_shape)
        try:
            output = network(leaves, ones, absolute=True, keep_flow=self.keep_flow)
        except (RuntimeError, TypeError, IndexError) as error:  # whatever a forward pass does with another input
            raise ValueError(
                f'{self.settings.owner}: scores with an input of ones, float64 of shape {tuple(ones.shape)}, which the '
                f'network does not take: {(str(error).strip().splitlines() or [type(error).__name__])[0]}; give its '
                'input_shape, or take SNIP or GraSP where inputs are token ids, with batches of them'
            ) from error
        grads = gradients(output.sum(), leaves)
        return {name: (leaf.detach() * grads.pop(name)).abs_() for name, leaf in leaves.items()}
