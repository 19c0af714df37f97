"""The highest scores: of one layer, or of several that compete."""

from fractions import Fraction

import torch
from torch import Tensor, nn

from ..pruners import kept_count


def highest(scores: Tensor, count: int) -> Tensor:
    """Mark exactly the ``count`` highest scores (1 <= count <= N), True in a bool tensor of their shape.

    Of equal scores the lower index is marked. Nothing waits for the device.
    """
    flat = scores.reshape(-1)
    last = flat.kthvalue(len(flat) - count + 1).values
    above, equal = flat > last, flat == last
    return (above | (equal & (equal.cumsum(0) <= count - above.sum()))).view(scores.shape)


class GlobalRanking:
    """Layers whose scores compete. Within a forward pass of the network that is watched they are ranked once."""

    def __init__(self, layers: list[nn.Module], density: Fraction) -> None:
        self.layers, self.density = layers, density
        self.chosen: dict[nn.Module, Tensor] | None = None  # while the network's forward pass runs

    def kept(self, layer: nn.Module) -> Tensor:
        """True where a layer's weight is used."""
        return (self.chosen or self.choose())[layer]

    def choose(self) -> dict[nn.Module, Tensor]:
        """Layer -> True where its weight is used."""
        ranks = {layer: layer.ranks() for layer in self.layers}
        flat = torch.cat([rank.reshape(-1) for rank in ranks.values()])
        parts = highest(flat, kept_count(len(flat), self.density)).split([rank.numel() for rank in ranks.values()])
        return {layer: part.view_as(rank) for (layer, rank), part in zip(ranks.items(), parts, strict=True)}

    def watch(self, network: nn.Module) -> None:
        """Rank the layers whenever the network that has them runs."""
        for layer in self.layers:
            layer.ranking = self
        network.register_forward_pre_hook(self._begin)
        network.register_forward_hook(self._end, always_call=True)

    def _begin(self, _network: nn.Module, _inputs: tuple) -> None:
        # the layers may have become plain ones
        self.chosen = self.choose() if hasattr(self.layers[0], 'scores') else None

    def _end(self, _network: nn.Module, _inputs: tuple, _output: Tensor) -> None:
        self.chosen = None
