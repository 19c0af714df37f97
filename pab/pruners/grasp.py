"""GraSP: how much removing a weight weakens the gradient flow."""

import functools

from torch import Tensor

from ..registry import PRUNERS
from .base import Pruner
from .inputs import Batches, Loss, weigh_batches
from .scoring_network import ScoringNetwork, Tensors, as_leaves, cross_entropy, gradients

softened = functools.partial(cross_entropy, temperature=200)  # an untrained network is confident by accident


@PRUNERS.register_module()
class GraSP(Pruner):
    r"""Score a weight by its share in the gradient flow, the highest stay; reads one batch or more.

    .. math:: S = \frac{(H g) \odot w}{|\sum (H g) \odot w| + 10^{-10}}, \quad
              g = \sum_{b} \frac{n_b}{\bar n} \nabla L_b, \quad
              H g = \sum_{b} \frac{n_b}{\bar n} \nabla (g \cdot \nabla L_b)

    where L_b is the loss of batch b with n_b labels (those of -100, which cross-entropy ignores, do not count), by
    default the mean cross-entropy for logits divided by 200,
    :math:`\bar n` the mean of n_b over the batches, the gradients are those of the weights that earlier rounds have
    kept, and g counts as a constant. How images are cut into batches changes the scores by one factor only, so it
    changes no mask.

    Raises:
        ValueError: a function of the network has no second derivative in torch, as Hardsigmoid.

    Source: Wang et al. 2020 (arXiv 2002.07376), with the sign turned so that the highest stay.
    """

    def score(
        self, weights: Tensors, masks: Tensors, network: ScoringNetwork, batches: Batches, loss: Loss = softened
    ) -> Tensors:
        leaves = as_leaves(weights)

        def loss_of(images: Tensor, labels: Tensor, share: float) -> Tensor:
            return loss(network(leaves, images), labels) * share

        batches = weigh_batches(batches)
        flow = dict.fromkeys(leaves, 0)
        for batch in batches:
            grads = gradients(loss_of(*batch), leaves)
            flow = {name: flow[name] + grads[name] * masks[name] for name in flow}
        scores = dict.fromkeys(leaves, 0)
        for batch in batches:
            grads = gradients(loss_of(*batch), leaves, create_graph=True)
            product = sum((flow[name] * grads[name]).sum() for name in leaves)
            curved = _second(product, leaves, type(self).__name__)
            scores = {name: scores[name] + curved[name] * weights[name] for name in scores}
        total = sum(score.sum() for score in scores.values()).abs() + 1e-10
        return {name: score / total for name, score in scores.items()}


def _second(product: Tensor, leaves: Tensors, owner: str) -> Tensors:
    try:
        return gradients(product, leaves)
    except RuntimeError as error:
        if 'is not implemented' not in str(error):
            raise
        raise ValueError(  # torch's own words name the function
            f'{owner}: the score needs second derivatives, and torch has not all of them: {str(error).splitlines()[0]} '
            'Put another function in its place, or take a pruner that needs none, such as SNIP'
        ) from error
