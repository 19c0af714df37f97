"""The learning rate for another batch size than the recipe's."""

from collections.abc import Iterable, Mapping

from torch.optim import Optimizer

KEYS = {'enable', 'base_batch_size'}


def check_auto_scale_lr(settings: Mapping) -> None:
    """Verify the config's ``auto_scale_lr``.

    Raises:
        ValueError: a key that is missing or that nothing reads, or a base_batch_size that is no integer >= 1.
    """
    if set(settings) - KEYS:
        raise ValueError(f'auto_scale_lr: its keys are {sorted(KEYS)}, got {sorted(settings)}')
    base = settings.get('base_batch_size')
    if settings.get('enable') and (not isinstance(base, int) or isinstance(base, bool) or base < 1):
        raise ValueError(
            f'auto_scale_lr: base_batch_size must be an integer >= 1, the batch that lr belongs to, got {base!r}'
        )


def scale_lr_(optimizers: Iterable[Optimizer], ratio: float) -> list[float]:
    """Multiply the learning rates of all optimizers that have one (Bop has none), as Goyal et al. 2017 do.

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
