"""Convolutions of one float64 image as matrix products, which a CPU does several times faster than torch's own.

torch has no fast float64 convolution on a CPU, and a score of many rounds spends nearly all its time in it.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class OneImageConvolutions(TorchFunctionMode):
    """Inside the context, ``conv2d`` of one float64 image on the CPU runs as matrix products; others run as ever.

    The result is the same but for the order of the sums. Second derivatives are not available.

    Args:
        out: tensor -> buffer of its shape: where to put the gradient of a convolution's weight, so that no memory has
            to be found for it. A buffer serves once; a weight that is used again gets fresh memory.
    """

    def __init__(self, out: list[tuple[Tensor, Tensor]] = ()):
        super().__init__()
        self._out = {id(weight): buffer for weight, buffer in out}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None):
        kwargs = kwargs or {}
        if func is torch.conv2d or func is F.conv2d:
            settings = _plain_settings(*args, **kwargs)
            if settings is not None:
                return _OneImage.apply(*settings, self._out)
        return func(*args, **kwargs)


def _plain_settings(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Return the arguments in one form, or None where the ordinary convolution has to do it."""
    ours = input.dtype == torch.float64 and input.device.type == 'cpu' and input.dim() == 4 and input.shape[0] == 1
    if not ours or groups != 1 or isinstance(padding, str):
        return None
    return input, weight, bias, _pair(stride), _pair(padding), _pair(dilation)


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value) * (2 if len(value) == 1 else 1)


class _OneImage(torch.autograd.Function):
    """y (O, L) = W (O, K) @ windows (K, L), for L positions and K = C * kernel height * kernel width."""

    @staticmethod
    def forward(ctx, input, weight, bias, stride, padding, dilation, out):
        kernel = weight.shape[2:]
        size = [
            (input.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
        ]
        ctx.pointwise = tuple(kernel) == (1, 1) and padding == (0, 0)
        if ctx.pointwise:
            windows = input[0, :, :: stride[0], :: stride[1]].flatten(1)
        else:
            windows = F.unfold(input, kernel, dilation, padding, stride)[0]
        # (L, K) for few positions and a large weight: the products then read the weight in the order it lies in memory
        ctx.tall = windows.shape[1] < windows.shape[0]
        flat = weight.flatten(1)
        if ctx.tall:
            windows = windows.t().contiguous()
            result = (windows @ flat.t()).t()
        else:
            result = flat @ windows
        if bias is not None:
            result = result + bias[:, None]
        ctx.save_for_backward(windows, weight)
        ctx.settings = input.shape, kernel, stride, padding, dilation
        ctx.out, ctx.key = out, id(weight)
        return result.reshape(1, -1, *size)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        windows, weight = ctx.saved_tensors
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad = grad[0].flatten(1)  # (O, L)
        if ctx.tall:
            grad = grad.t().contiguous().t()
        grad_input = grad_weight = grad_bias = None
        if needs_weight:
            buffer = ctx.out.pop(ctx.key, None)
            grad_weight = torch.empty_like(weight) if buffer is None else buffer
            torch.mm(grad, windows if ctx.tall else windows.t(), out=grad_weight.view(weight.shape[0], -1))
        if needs_bias:
            grad_bias = grad.sum(1)
        if needs_input:
            shape, kernel, stride, padding, dilation = ctx.settings
            flat = weight.flatten(1)
            spread = (grad.t() @ flat).t() if ctx.tall else flat.t() @ grad  # (K, L)
            if not ctx.pointwise:
                grad_input = F.fold(spread[None], shape[2:], kernel, dilation, padding, stride)
            elif stride == (1, 1):
                grad_input = spread.reshape(shape)
            else:
                grad_input = grad.new_zeros(shape)
                grad_input[0, :, :: stride[0], :: stride[1]] = spread.reshape(shape[1], *_strided(shape, stride))
        return grad_input, grad_weight, grad_bias, None, None, None, None


def _strided(shape, stride) -> list[int]:
    return [-(-shape[2 + i] // stride[i]) for i in (0, 1)]
