"""The learning rate for another batch size than the recipe's."""

from collections.abc import Iterable

from torch.optim import Optimizer


def scale_lr_(optimizers: Iterable[Optimizer], ratio: float) -> list[float]:
    """Multiply the learning rates of all optimizers that have one (Bop has none).

    Args:
        optimizers: changed in place.
        ratio: batch of one step / batch that the learning rate belongs to, > 0.

    Returns:
        The new learning rates, one for each parameter group that has one.

    Source: Goyal et al. 2017, "Accurate, Large Minibatch SGD" (arXiv 1706.02677), the linear scaling rule.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups if 'lr' in group]
    for group in groups:
        group['lr'] = group['lr'] * ratio
    return [group['lr'] for group in groups]
