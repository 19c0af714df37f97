"""A ReLU that keeps one byte an entry for its backward pass, so that the float activation can be freed."""

import torch
from torch import Tensor, nn

from . import kernels


class ByteMaskReLU(nn.ReLU):
    """``nn.ReLU`` whose backward pass reads a mask of bytes; outputs and gradients are the same bit for bit.

    ``nn.ReLU`` keeps its float output, as a convolution behind it does; a PSG layer keeps a code of one byte instead,
    and the float would be held for the ReLU alone. While ``exact`` is set, it is ``nn.ReLU``.
    """

    special_backward = True
    exact: bool = False

    def forward(self, input: Tensor) -> Tensor:
        if self.exact or not torch.is_grad_enabled():
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
