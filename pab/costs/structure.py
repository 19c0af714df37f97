"""The bytes and channels of each layer, and its work without dead channels or with 2:4 weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2

from torch import Tensor, nn

from ..narrowing import Cut
from .count import LayerCost
from .narrow import cut_sizes, narrow_macs

FLOAT_BYTES = 4
HALF_BYTES = 2  # of the kernels for 2:4 weights
INDEX_BITS = 2  # of the place of each kept weight among four


@dataclass(frozen=True)
class LayerStructure:
    """One layer with a weight, stored and restructured.

    Args:
        name: of the layer.
        channel_density: kept share of each output channel, between 0 and 1; () for a layer that is not pruned.
        full_bytes: of its weight in float32; 0 where it is stored with another layer's.
        compact_bytes: the entropy of the mask, and for each kept weight a bit where signs are trained or a converter
            makes the weights, else 32. A file of ``pab compact`` comes to about this.
        narrow_macs: of the forward pass for one image, without the channels that a training under the masks never
            needs (:mod:`pab.narrowing.channels`); None where the cuts are not known.
        saved_macs: of the forward pass for one image, that 2:4 weights would not compute.
        saved_bytes: of its weight in 16 bits, that 2:4 weights would not store.
        obstacle: why no 2:4 kernel can run the layer; '' if one can.
    """

    name: str
    channel_density: tuple[float, ...]
    full_bytes: int
    compact_bytes: int
    narrow_macs: int | None
    saved_macs: int
    saved_bytes: int
    obstacle: str


def structure_of(
    network: nn.Module, layers: Sequence[LayerCost], masks: Mapping[str, Tensor], cuts: Mapping[str, Cut] | None = None
) -> list[LayerStructure]:
    """The structure of each layer that has a weight and is in the network.

    Args:
        network: whose layers were counted.
        layers: of :func:`pab.costs.count.count_layers`, for the same network and masks.
        masks: parameter name -> bool tensor (out, in, ...), True where the weight is kept.
        cuts: of :func:`pab.narrowing.find_cuts`, for the same network and masks; None where they are not known.
    """
    modules = dict(network.named_modules())
    sizes = None if cuts is None else cut_sizes(layers, cuts)
    return [
        _structure(modules[row.name], row, masks.get(row.parameter), sizes) for row in layers if row.name in modules
    ]


def _structure(
    layer: nn.Module, row: LayerCost, mask: Tensor | None, sizes: Mapping[str, tuple[int, int]] | None
) -> LayerStructure:
    stored = 0 if row.tied_to else row.total
    signs = row.sign_trained or (hasattr(layer, 'used_weight') and not getattr(layer, 'trains_weight', False))
    bits = row.kept * (1 if signs else 8 * FLOAT_BYTES) + _entropy(row.kept, row.total)
    obstacle = form_obstacle(layer)
    saved = HALF_BYTES * stored / 2 - stored / 2 * INDEX_BITS / 8
    return LayerStructure(
        row.name,
        () if mask is None else tuple(mask.flatten(1).double().mean(1).tolist()),
        FLOAT_BYTES * stored,
        0 if row.tied_to else round(bits / 8),
        None if sizes is None else narrow_macs([row], sizes),
        0 if obstacle else row.macs // 2,
        0 if obstacle else round(saved),
        obstacle,
    )


def _entropy(kept: int, total: int) -> float:
    """Bits of a mask of independent entries."""
    shares = [share for share in (kept / total, 1 - kept / total) if share]
    return -total * sum(share * log2(share) for share in shares)


def form_obstacle(layer: nn.Module) -> str:
    """Why the form of a layer, whatever its weights are, has no kernel for 2:4 weights; '' if it has one."""
    if not isinstance(layer, nn.Linear | nn.Conv2d) or hasattr(layer, 'used_weight'):
        return f'{type(layer).__name__} is not an ordinary Linear or Conv2d'
    if isinstance(layer, nn.Conv2d):
        if layer.kernel_size != (1, 1) or layer.groups != 1:
            height, width = layer.kernel_size
            return f'a {height}x{width} convolution{" in groups" if layer.groups != 1 else ""} is no matrix product'
        if not isinstance(layer.padding, str) and any(layer.padding):  # 'same' and 'valid' add nothing to 1x1
            return 'a padded convolution is no matrix product'
    return '' if layer.weight.shape[1] % 4 == 0 else 'its inputs are no multiple of 4'
