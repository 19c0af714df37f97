"""Networks without the channels that nothing needs: as smaller modules, and for the time of a training."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .channels import Cut

TENSORS = ('weight', 'bias', 'running_mean', 'running_var')


@torch.no_grad()
def cut_(network: nn.Module, cuts: Mapping[str, Cut]) -> nn.Module:
    """Make the layers of a network smaller, in place, and return it.

    Args:
        network: without masks.
        cuts: of :func:`~pab.narrow.channels.find_cuts` for it.
    """
    for name, cut in cuts.items():
        layer = network.get_submodule(name)
        for own in TENSORS:
            if (tensor := getattr(layer, own, None)) is not None:
                part = take(tensor, cut, own)
                setattr(layer, own, nn.Parameter(part, tensor.requires_grad) if own in layer._parameters else part)
        if cut.shift is not None:
            shift = cut.shift if layer.bias is None else layer.bias.double() + cut.shift.to(layer.bias.device)
            layer.bias = nn.Parameter(shift.to(layer.weight), layer.weight.requires_grad)
        inputs = cut.outputs if cut.inputs is None else cut.inputs
        sizes = {'out_channels': cut.outputs, 'out_features': cut.outputs, 'num_features': cut.outputs}
        sizes |= {'in_channels': inputs, 'in_features': inputs}
        sizes |= {'groups': inputs} if cut.inputs is None else {}  # a depthwise convolution
        for attribute, kept in sizes.items():
            if hasattr(layer, attribute):
                setattr(layer, attribute, len(kept))
    return network


def take(tensor: Tensor, cut: Cut, own_name: str) -> Tensor:
    """The part of a layer's tensor that stays, a copy in its memory format."""
    part = tensor.index_select(0, cut.outputs.to(tensor.device))
    if own_name == 'weight' and cut.inputs is not None:
        part = part.index_select(1, cut.inputs.to(tensor.device))
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        part = part.contiguous(memory_format=torch.channels_last)
    return part
