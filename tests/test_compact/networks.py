"""Networks as a training leaves them, made in an instant."""

import torch
from torch import Tensor, nn

from pab.models import CIFARResNet, initialize_
from pab.pruners import SynFlow, apply_masks_, get_masks
from pab.registry import MODELS

SHAPE = (3, 8, 8)
RESNET = dict(type='CIFARResNet', depth=8, width=4)


@MODELS.register_module()
class TiedNet(nn.Module):
    """A convolution that is used twice, biases, and a buffer that no state dict has: (N, 3, H, W) -> (N, 3)."""

    def __init__(self, width: int = 3):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.second.weight = self.first.weight
        self.register_buffer('scale', torch.tensor([0.5, 2.0, 1.0]), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.norm(self.first(images)).relu()).mean((2, 3)) * self.scale


def trained(network: nn.Module | None = None, pruner=None, seed: int = 7, scheme: str = 'kaiming_normal') -> nn.Module:
    """Draw a network, prune it, and change it as a training does: signs of convolutions, and all of everything else."""
    network = initialize_(CIFARResNet(8, width=4) if network is None else network, scheme, seed)
    pruner = pruner or SynFlow(density=0.3, rounds=5)
    apply_masks_(network, pruner.prune(network, input_shape=SHAPE, seed=seed))
    return change(network)


@torch.no_grad()
def change(network: nn.Module) -> nn.Module:
    generator, masks = torch.Generator().manual_seed(1), get_masks(network)
    signed = {m.weight for m in network.modules() if isinstance(m, nn.Conv2d)}
    for value in network.state_dict(keep_vars=True).values():
        if value in signed:
            value *= torch.randint(0, 2, value.shape, generator=generator) * 2 - 1
        elif value.is_floating_point():
            value += 0.1 * torch.rand(value.shape, generator=generator)
        elif value.dtype == torch.int64:
            value += 3
    for name, parameter in network.named_parameters():
        if name in masks:
            parameter.masked_fill_(~masks[name], 0)  # no -0, and nothing added to what is pruned
    return network.eval()


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks hold the same tensors, bit for bit."""
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(
        first[n].dtype == second[n].dtype and first[n].shape == second[n].shape and bits(first[n]) == bits(second[n])
        for n in first
    )


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
