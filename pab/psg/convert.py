"""Turn the layers of any network into PSG layers, in place."""

from collections.abc import Sequence
from dataclasses import asdict

from torch import nn

from ..converter import Converter
from ..registry import CONVERTERS
from .config import PSGConfig
from .layers import ByteMaskReLU, PSGConv2d, PSGLayer, PSGLinear, check_input_signed


@CONVERTERS.register_module()
class PSG(Converter):
    """Make a network's convolutions, or what ``layers`` selects, PSG layers.

    Args:
        layers: patterns of :mod:`pab.patterns`; of what they select, ``nn.Conv2d`` and ``nn.Linear`` are converted.
        input_signed: for all of them, see :class:`PSGLayer`. By default every batch decides by its own data; so do the
            processes of a distributed run and the parts of an accumulated batch, each for itself. To fix the sign of
            some layers, convert them again by a second converter: ``dict(type='PSG', layers=['name:conv1'],
            input_signed=True)``.
        byte_mask_relu: also make every ``nn.ReLU`` a :class:`ByteMaskReLU`, which changes no number and lets the float
            activation between ReLU and PSG layer be freed.
        **settings: the fields of :class:`PSGConfig`.
    """

    classes = {nn.Conv2d: PSGConv2d, nn.Linear: PSGLinear}
    settings_class = PSGConfig

    def __init__(
        self,
        layers: Sequence[str] = ('Conv2d',),
        input_signed: bool | None = None,
        byte_mask_relu: bool = True,
        **settings,
    ) -> None:
        super().__init__(layers)
        known = PSGConfig.__dataclass_fields__
        if unknown := sorted(settings.keys() - known):
            raise TypeError(f'PSG: unknown settings {unknown}; known are {sorted(known)}')
        check_input_signed('PSG', input_signed)
        self.psg, self.input_signed, self.byte_mask_relu = PSGConfig(**settings), input_signed, byte_mask_relu

    def set_up(self, layer: PSGLayer, name: str) -> None:
        layer.psg, layer.input_signed = self.psg, self.input_signed

    def __call__(self, network: nn.Module) -> nn.Module:
        super().__call__(network)
        for module in network.modules() if self.byte_mask_relu else ():
            if type(module) is nn.ReLU:
                module.__class__ = ByteMaskReLU
        return network


def convert_psg_(network: nn.Module, cfg: PSGConfig | None = None, **options) -> nn.Module:
    """Apply :class:`PSG` with the settings ``cfg`` (None: the defaults) and its other arguments as ``options``."""
    cfg = PSGConfig() if cfg is None else cfg
    if not isinstance(cfg, PSGConfig):
        raise TypeError(f'convert_psg_: cfg must be a PSGConfig, got {cfg!r}; write PSGConfig(**cfg)')
    return PSG(**options, **asdict(cfg))(network)
