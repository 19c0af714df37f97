"""The costs of a network without the channels that pruning has left without use, and what a machine gains by it."""

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import nn

from ..checks import some
from ..narrowing import Cut
from .count import LayerCost, count_layers

BLOCKS = {'AVX512': 16, 'AVX2': 8}  # float32 channels that one register holds, by torch's name of the instruction set


def block_width() -> int:
    """The channels that this processor computes together, in float32."""
    return BLOCKS.get(torch.backends.cpu.get_cpu_capability(), 4)


def cut_sizes(layers: Sequence[LayerCost], cuts: Mapping[str, Cut]) -> dict[str, tuple[int, int]]:
    """Name of a cut layer -> the first two sizes of its smaller weight; ``cuts`` are of ``pab.narrowing.find_cuts``."""
    cut = [(row, cuts[row.name]) for row in layers if row.name in cuts]
    return {
        row.name: (len(part.outputs), row.weight[1] if part.inputs is None else len(part.inputs)) for row, part in cut
    }


def narrow_macs(layers: Sequence[LayerCost], sizes: Mapping[str, tuple[int, int]], block: int = 1) -> int:
    """Count the MACs of an image where layers have fewer channels.

    Args:
        layers: of :func:`~pab.costs.count.count_layers`, for the whole network.
        sizes: layer name -> what is left of the first two sizes of its weight; others stay whole.
        block: channels count as the next multiple of it, as kernels compute them, but none as more than there were.
    """
    return sum(_macs(row, sizes.get(row.name), block) for row in layers)


def describe_narrowing(layers: Sequence[LayerCost], sizes: Mapping[str, tuple[int, int]]) -> str:
    """Two lines: the MACs before and after, as :func:`narrow_macs` counts them, and as this processor computes them."""
    whole, small, block = narrow_macs(layers, {}), narrow_macs(layers, sizes), block_width()
    cut = [row for row in layers if row.name in sizes and sizes[row.name] != row.weight[:2]]
    idle = [row for row in cut if _macs(row, sizes[row.name], block) == row.macs]
    text = (
        f'{len(cut)} of {len(layers)} layers are smaller: {whole / 1e6:.4g} -> {small / 1e6:.4g} million MACs an image '
    )
    text += f'({small / whole:.3f})\nin blocks of {block} channels, as this processor computes: '
    text += f'{narrow_macs(layers, sizes, block) / whole:.3f}'
    if idle:
        named = [f'{row.name} {row.weight[0]}x{row.weight[1]} -> {"x".join(map(str, sizes[row.name]))}' for row in idle]
        text += f'; nothing is gained in {some(named)}'
    return text


def compare_networks(whole: nn.Module, small: nn.Module, input_shape: tuple[int, ...]) -> str:
    """:func:`describe_narrowing` of two networks of the same layers, and a line with the bytes of their tensors."""
    layers = count_layers(whole, input_shape)
    sizes = {row.name: tuple(small.get_submodule(row.name).weight.shape[:2]) for row in layers if row.weight}
    size = [sum(t.nbytes for t in chain(net.parameters(), net.buffers())) for net in (whole, small)]
    return f'{describe_narrowing(layers, sizes)}\n{size[0]:,} -> {size[1]:,} bytes of weights and buffers'


def _macs(row: LayerCost, size: tuple[int, int] | None, block: int) -> int:
    if size is None:
        return row.macs
    outputs, inputs = (min(before, -(-after // block) * block) for before, after in zip(row.weight, size, strict=False))
    return row.macs * outputs * inputs // (row.weight[0] * row.weight[1])
