"""The PSG layers, a ReLU that spares memory, and the converter that puts both into any network."""

from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..converter import Converter
from ..registry import CONVERTERS
from . import kernels
from .autograd import Conv, PSGProduct
from .settings import PSGConfig


class PSGLayer:
    """An ordinary layer whose weight gradient comes from a quantised input and a quantised output gradient.

    Args:
        *args, **kwargs: those of the ordinary layer.
        psg: the settings; None for the defaults of :class:`PSGConfig`.
    """

    psg: PSGConfig = PSGConfig()
    special_backward = True
    exact: bool = False

    def __init__(self, *args, psg: PSGConfig | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        psg = PSGConfig() if psg is None else psg
        if not isinstance(psg, PSGConfig):
            raise TypeError(f'{type(self).__name__}: psg must be a PSGConfig, got {psg!r}')
        self.psg = psg

    @property
    def weight_gradient_bits(self) -> tuple[int, int]:
        """See :mod:`pab.contracts`."""
        return min(32, self.psg.input_bits), min(32, self.psg.grad_bits)

    def loss_scale_conflict(self) -> str | None:
        """See :mod:`pab.contracts`."""
        if self.psg.take_sign:
            return 'take_sign=True drops its size'
        if self.psg.threshold and not self.psg.relative:
            return f'an absolute threshold, {self.psg.threshold}, compares it with a number'
        return None

    @property
    def is_ordinary(self) -> bool:
        """True while a forward pass is that of the ordinary layer: while exact, and where no gradient is wanted."""
        return self.exact or not (torch.is_grad_enabled() or self.psg.predictive_forward)

    def _psg_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        is_batch = input.dim() >= self._batch_dims
        x, conv = self._arguments(input if is_batch else input[None])
        y = PSGProduct.apply(x, weight, bias, self.psg, conv)
        return y if is_batch else y[0]

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, psg={self.psg}'


class PSGConv2d(PSGLayer, nn.Conv2d):
    """``nn.Conv2d`` as a :class:`PSGLayer`; shapes as ``nn.Conv2d``, with or without the dimension of the batch."""

    _batch_dims = 4

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return (super()._conv_forward if self.is_ordinary else self._psg_forward)(input, weight, bias)

    def _arguments(self, x: Tensor) -> tuple[Tensor, Conv]:
        left, right, top, bottom = self._reversed_padding_repeated_twice
        padding = (top, left) if isinstance(self.padding, str) else self.padding
        # A border that the convolution cannot add is written into the input; no sample's max|x| or sign changes.
        if self.padding_mode != 'zeros':
            x, padding = F.pad(x, (left, right, top, bottom), self.padding_mode), (0, 0)
        elif (left, top) != (right, bottom):  # 'same' and an even kernel: one row or column more at the far end
            x = F.pad(x, (0, right - left, 0, bottom - top))
        return x, (self.stride, padding, self.dilation, self.groups)


class PSGLinear(PSGLayer, nn.Linear):
    """``nn.Linear`` as a :class:`PSGLayer`, (N, ..., in) -> (N, ..., out).

    The first dimension is the batch, of which each sample has its own maximum; (in,) is a batch of one.
    """

    _batch_dims = 2

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if self.is_ordinary else self._psg_forward(input, self.weight, self.bias)

    def _arguments(self, x: Tensor) -> tuple[Tensor, None]:
        return x, None


class ByteMaskReLU(nn.ReLU):
    """``nn.ReLU`` whose backward pass reads a mask of bytes; outputs and gradients are the same bit for bit.

    ``nn.ReLU`` keeps its float output, as a convolution behind it does; a PSG layer keeps a code of one byte instead,
    and the float would be held for the ReLU alone. While ``exact`` is set, it is ``nn.ReLU``.
    """

    special_backward = True
    exact: bool = False

    def forward(self, input: Tensor) -> Tensor:
        # an output of two bytes is kept by the PSG layer behind, too, and is no larger than a code and a mask
        if self.exact or not torch.is_grad_enabled() or input.element_size() == 2:
            return super().forward(input)
        return _ByteMaskReLU.apply(input, self.inplace)


class _ByteMaskReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, inplace: bool) -> Tensor:
        if inplace:
            ctx.mark_dirty(x)
            y, passes = x.relu_(), kernels.positive(x)
        else:
            y, passes = kernels.relu_with_mask(x)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(passes)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        (passes,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second backward pass will follow: it needs operations torch can differentiate
            return torch.where(passes == 0, 0, grad), None
        return kernels.pass_where(grad, passes), None


@CONVERTERS.register_module()
class PSG(Converter):
    """Make a network's convolutions, or what ``layers`` selects, PSG layers.

    Args:
        layers: patterns of :mod:`pab.patterns`; of what they select, ``nn.Conv2d`` and ``nn.Linear`` are converted.
        byte_mask_relu: also make every ``nn.ReLU`` a :class:`ByteMaskReLU`, which frees the float activation before a
            PSG layer and changes no number.
        **settings: the fields of :class:`PSGConfig`. A second converter, such as ``dict(type='PSG',
            layers=['name:conv1'], input_signed=True)``, gives some layers others.
    """

    classes = {nn.Conv2d: PSGConv2d, nn.Linear: PSGLinear}
    settings_class = PSGConfig

    def __init__(self, layers: Sequence[str] = ('Conv2d',), byte_mask_relu: bool = True, **settings) -> None:
        super().__init__(layers)
        self.psg, self.byte_mask_relu = PSGConfig(**settings), byte_mask_relu

    def set_up(self, layer: PSGLayer, name: str) -> None:
        layer.psg = self.psg

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
