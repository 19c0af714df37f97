"""Networks with channels that are dead on one side or on both, for tests of pab.narrowing."""

import torch
from torch import nn

from pab.pruners import apply_masks_, get_masks


@torch.no_grad()
def kill(network: nn.Module, share: float, seed: int = 0) -> nn.Module:
    """Mask half of the weights, and a share of the filters and of the input channels of every convolution."""
    generator, masks, earlier = torch.Generator().manual_seed(seed), {}, get_masks(network)
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            shape = layer.weight.shape
            mask = torch.rand(shape, generator=generator) < 0.5
            mask[torch.rand(shape[0], generator=generator) < share] = False
            mask[:, torch.rand(shape[1], generator=generator) < share] = False
            masks[f'{name}.weight'] = mask & earlier.get(f'{name}.weight', mask)
    apply_masks_(network, masks)
    return network


def widths(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """The first two sizes of every weight of more than one dimension."""
    return {n.removesuffix('.weight'): tuple(p.shape[:2]) for n, p in network.named_parameters() if p.dim() > 1}
