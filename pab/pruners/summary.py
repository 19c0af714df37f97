"""The share of a whole network that pruning keeps, in words."""

from torch import nn

from .masks import get_masks


def describe_kept_share(network: nn.Module) -> str:
    """Write one line that says which share of all parameters stays, biases, scales and tied ones (once) included.

    The density is a share of the prunable weights alone; where much is not prunable, more of the network stays.

    Args:
        network: with its masks.
    """
    masks, parameters = get_masks(network), dict(network.named_parameters())
    total = sum(parameter.numel() for parameter in parameters.values())
    left = total - sum(int((~mask).sum()) for mask in masks.values())
    line = f'Of all {total:,} parameters of the network {left:,} stay ({left / total:.4f})'
    others = {name: parameter.numel() for name, parameter in parameters.items() if name not in masks}
    if not others:
        return line
    return (
        f'{line}; {sum(others.values()):,} are not prunable, the largest tensor of them {max(others, key=others.get)}'
    )
