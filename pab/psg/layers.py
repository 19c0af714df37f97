"""The PSG layers: ``nn.Conv2d`` and ``nn.Linear`` with another weight gradient, and nothing else changed."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .autograd import Geometry, Settings, psg_conv2d, psg_linear
from .config import PSGConfig


class PSGLayer:
    """What both layers share. Set on the instance, so that a layer can also be made by a change of class:

    psg: the settings.
    input_signed: whether the input is quantised over [-s, s] (images, signed features) or [0, s] (after a ReLU).
    exact: whether the backward pass is the plain layer's; switched by :func:`pab.psg.exact_gradients`.
    """

    psg: PSGConfig = PSGConfig()
    input_signed: bool = False
    special_backward = True
    exact: bool = False

    def _init_psg(self, psg: PSGConfig | None, input_signed: bool) -> None:
        name = type(self).__name__
        psg = PSGConfig() if psg is None else psg
        if not isinstance(psg, PSGConfig):
            raise TypeError(f'{name}: psg must be a PSGConfig, got {psg!r}')
        if not isinstance(input_signed, bool):
            raise TypeError(f'{name}: input_signed must be True or False, got {input_signed!r}')
        self.psg, self.input_signed, self.exact = psg, input_signed, False

    def loss_scale_conflict(self) -> str | None:
        """Why the weight gradient is not proportional to the loss; None when it is (see :mod:`pab.contracts`)."""
        if self.psg.take_sign:
            return 'take_sign=True drops its size'
        if self.psg.threshold and not self.psg.relative:
            return f'an absolute threshold, {self.psg.threshold}, compares it with a number'
        return None

    def _is_plain(self) -> bool:
        return self.exact or not (torch.is_grad_enabled() or self.psg.predictive_forward)

    def _psg_repr(self) -> str:
        return f'input_signed={self.input_signed}, psg={self.psg}'


class PSGConv2d(PSGLayer, nn.Conv2d):
    """``nn.Conv2d`` whose weight gradient comes from a quantised input and a quantised output gradient.

    Args:
        *args, **kwargs: those of ``nn.Conv2d``.
        psg: the settings; None for the defaults of :class:`PSGConfig`.
        input_signed: True for a layer that reads images or other signed values, False after a ReLU.

    Shapes as ``nn.Conv2d``: (N, C_in, H, W) or (C_in, H, W) -> (N, C_out, H', W') or (C_out, H', W').
    Raises TypeError for settings of another type.
    """

    def __init__(self, *args, psg: PSGConfig | None = None, input_signed: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self._init_psg(psg, input_signed)

    def forward(self, input: Tensor) -> Tensor:
        if self._is_plain():
            return super().forward(input)
        x = input if input.dim() == 4 else input[None]
        padding = self.padding
        if self.padding_mode != 'zeros' or isinstance(padding, str):
            x, padding = self._pad(x)
        geometry = Geometry(self.stride, padding, self.dilation, self.groups)
        y = psg_conv2d(x, self.weight, self.bias, Settings(self.psg, self.input_signed, geometry))
        return y if input.dim() == 4 else y[0]

    def _pad(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The input with its border, and the zeros still to be added; no border changes a sample's max|x|."""
        if self.padding == 'valid':
            return x, (0, 0)
        left, right, top, bottom = self._reversed_padding_repeated_twice
        if self.padding_mode != 'zeros':
            return F.pad(x, (left, right, top, bottom), mode=self.padding_mode), (0, 0)
        # 'same' with an even kernel: one row or column more at the far end, which the convolution cannot add itself
        return F.pad(x, (0, right - left, 0, bottom - top)) if (left, top) != (right, bottom) else x, (top, left)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, {self._psg_repr()}'


class PSGLinear(PSGLayer, nn.Linear):
    """``nn.Linear`` whose weight gradient comes from a quantised input and a quantised output gradient.

    Args:
        *args, **kwargs: those of ``nn.Linear``.
        psg: the settings; None for the defaults of :class:`PSGConfig`.
        input_signed: True for a layer that reads signed values, False after a ReLU.

    Shapes as ``nn.Linear``: (N, ..., in) -> (N, ..., out); the first dimension is the batch, of which each sample has
    its own maximum; (in,) is a batch of one. Raises TypeError for settings of another type.
    """

    def __init__(self, *args, psg: PSGConfig | None = None, input_signed: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self._init_psg(psg, input_signed)

    def forward(self, input: Tensor) -> Tensor:
        if self._is_plain():
            return super().forward(input)
        return psg_linear(input, self.weight, self.bias, Settings(self.psg, self.input_signed))

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, {self._psg_repr()}'
