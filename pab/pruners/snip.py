"""SNIP: how much the loss feels a weight."""

from ..registry import PRUNERS
from .base import Pruner
from .inputs import Batches, Loss, weigh_batches
from .scoring_network import ScoringNetwork, Tensors, as_leaves, cross_entropy, gradients


@PRUNERS.register_module()
class SNIP(Pruner):
    r"""Score a weight by how much the loss changes with its mask; reads one batch or more.

    .. math:: S = \frac{|g \odot w|}{\sum |g \odot w|}, \quad
              g = \sum_{b} \frac{n_b}{\bar n} \frac{\partial L_b}{\partial w}

    where L_b is the loss of batch b with n_b labels, by default the mean cross-entropy, :math:`\bar n` the mean of n_b
    over the batches, and g * w the derivative with respect to a mask on w. Labels of -100, which cross-entropy ignores,
    do not count. So the scores do not depend on how images are cut into batches.

    Source: Lee et al. 2018 (arXiv 1810.02340).
    """

    def score(self, weights: Tensors, network: ScoringNetwork, batches: Batches, loss: Loss = cross_entropy) -> Tensors:
        leaves = as_leaves(weights)
        scores = dict.fromkeys(leaves, 0)
        for images, labels, share in weigh_batches(batches):
            grads = gradients(loss(network(leaves, images), labels) * share, leaves)
            scores = {name: scores[name] + grads[name] * weights[name] for name in scores}
        scores = {name: score.abs() for name, score in scores.items()}
        total = sum(score.sum() for score in scores.values())
        # a network that lets nothing through scores 0 everywhere: leave that a tie instead of 0 / 0
        return {name: score / total.where(total > 0, 1) for name, score in scores.items()}
