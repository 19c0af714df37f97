"""The baseline to beat: PSG and Bop written straight from their equations, one torch operation after the other.

A layer spends five convolutions a step: the output; one of the quantised input and weight, whose result is not used;
the input gradient; the exact weight gradient; and the quantised one.
"""

from collections.abc import Iterable
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def quantize(x: Tensor, bits: int, scale: Tensor, signed: bool) -> Tensor:
    """Q(x; bits) over [-scale, scale] or [0, scale]; ``scale`` broadcasts."""
    low = -scale if signed else torch.zeros_like(scale)
    delta = (scale - low) / 2**bits
    q = torch.round(torch.clamp((x - low) / delta, 0, 2**bits - 1)) * delta + low
    return torch.where(scale > 0, q, x)


class FiveConvolutions(torch.autograd.Function):
    """A convolution whose weight gradient is PSG's, with relative threshold and sparsify."""

    @staticmethod
    def forward(ctx, x, weight, stride, padding, input_signed):
        input_scale = x.abs().amax((1, 2, 3)).mean()
        quantized = quantize(x, 8, input_scale, input_signed)
        quantized_weight = quantize(weight, 8, weight.abs().amax((1, 2, 3), keepdim=True), True)
        y = F.conv2d(x, weight, None, stride, padding)
        F.conv2d(quantized, quantized_weight, None, stride, padding)
        ctx.save_for_backward(x, weight, quantized)
        ctx.settings = stride, padding
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight, quantized = ctx.saved_tensors
        stride, padding = ctx.settings
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = nn.grad.conv2d_input(x.shape, weight, grad, stride, padding)
        exact = nn.grad.conv2d_weight(x, weight.shape, grad, stride, padding)
        quantized_grad = quantize(grad, 16, grad.abs().max(), True)
        product = nn.grad.conv2d_weight(quantized, weight.shape, quantized_grad, stride, padding)
        keep = product.abs() >= 1e-7 * product.abs().max()
        return grad_x, torch.where(keep, product, exact * 0), None, None, None


def convert_to_baseline_(network: nn.Module) -> nn.Module:
    """Give every bias-free ``nn.Conv2d`` the baseline's two passes; the first one's input is signed."""
    signed = True
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.psg = (layer.stride, layer.padding, signed)
            layer.forward = MethodType(lambda self, x: FiveConvolutions.apply(x, self.weight, *self.psg), layer)
            signed = False
    return network


class PerParameterBop(torch.optim.Optimizer):
    """Bop, parameter by parameter; its flips are counted in ``last_flips``."""

    def __init__(self, params: Iterable[Tensor], adaptivity_rate: float = 1e-3, threshold: float = 1e-6) -> None:
        super().__init__(params, dict(adaptivity_rate=adaptivity_rate, threshold=threshold))
        self.last_flips = 0

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Average, compare, flip and count."""
        self.last_flips = 0
        for group in self.param_groups:
            for param in group['params']:
                state = self.state[param]
                if not state:
                    state['average'] = torch.zeros_like(param)
                rate = group['adaptivity_rate']
                state['average'].mul_(1 - rate).add_(param.grad, alpha=rate)
                average = state['average']
                agrees = (torch.sign(average) == torch.sign(param)) & (param != 0)
                flips = (average.abs() >= group['threshold']) & agrees
                param.copy_(torch.where(flips, -param, param))
                self.last_flips += flips.sum()
