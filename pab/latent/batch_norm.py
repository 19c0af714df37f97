"""BatchNorm without scale and shift, in any network."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..converter import Converter
from ..registry import CONVERTERS


@CONVERTERS.register_module()
class AffineFreeBatchNorm(Converter):
    """Freeze scale and shift of every ``nn.BatchNorm2d`` at 1 and 0, which is BatchNorm without them.

    The parameters stay in the state dict, so that the network can be stored and loaded as any other.

    Args:
        layers: patterns of :mod:`pab.patterns`.
    """

    classes = {nn.BatchNorm2d: nn.BatchNorm2d}
    kin = (_BatchNorm,)

    def set_up(self, layer: nn.BatchNorm2d, name: str) -> None:
        if layer.affine:
            nn.init.ones_(layer.weight.requires_grad_(False))
            nn.init.zeros_(layer.bias.requires_grad_(False))
