"""Convolutions of one float64 image as matrix products, which a CPU does several times faster than torch's own.

torch has no fast float64 convolution on a CPU, and a score of many rounds spends nearly all its time in it.
"""

import functools
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
    """y (O, L) = W (O, K) @ windows (K, L), for L positions and K = C * kernel height * kernel width.

    In an image of equal pixels most windows are equal, and likewise most output gradients before a global average:
    equal rows and columns are computed once.
    """

    @staticmethod
    def forward(ctx, input, weight, bias, stride, padding, dilation, out):
        kernel = weight.shape[2:]
        image = F.pad(input[0], (padding[1], padding[1], padding[0], padding[0]))
        rows, ctx.row_of = _distinct(image, 1, stride[0], [dilation[0] * tap for tap in range(kernel[0])])
        columns, ctx.column_of = _distinct(image, 2, stride[1], [dilation[1] * tap for tap in range(kernel[1])])
        windows = image.index_select(1, rows.flatten()).index_select(2, columns.flatten())
        windows = windows.view(-1, *rows.shape, *columns.shape)  # (C, rows, kernel height, columns, kernel width)
        positions, size = len(rows) * len(columns), weight[0].numel()
        # (L, K) for few positions and a large weight: the products then read the weight in the order it lies in memory
        ctx.tall = positions < size
        if ctx.tall:
            windows = windows.permute(1, 3, 0, 2, 4).reshape(positions, size)
            result = (windows @ weight.flatten(1).t()).t()
        else:
            windows = windows.permute(0, 2, 4, 1, 3).reshape(size, positions)
            result = weight.flatten(1) @ windows
        if bias is not None:
            result = result + bias[:, None]
        ctx.save_for_backward(windows, weight)
        ctx.settings = input.shape[2:], tuple(kernel), dilation, padding, stride
        ctx.out, ctx.key = out, id(weight)
        return _repeat(result.reshape(-1, len(rows), len(columns)), ctx.row_of, ctx.column_of)[None]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        windows, weight = ctx.saved_tensors
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad = grad[0]  # (O, H, W)
        grad_input = grad_weight = grad_bias = None
        if needs_weight:
            buffer = ctx.out.pop(ctx.key, None)
            grad_weight = weight.new_empty(weight.shape) if buffer is None else buffer
            gathered = _gather(_gather(grad, 1, ctx.row_of), 2, ctx.column_of).flatten(1)
            torch.mm(gathered, windows if ctx.tall else windows.t(), out=grad_weight.view(weight.shape[0], -1))
        if needs_bias:
            grad_bias = grad.sum((1, 2))
        if needs_input:
            rows, row_of = _distinct(grad, 1, 1, [0])
            columns, column_of = _distinct(grad, 2, 1, [0])
            few = grad.index_select(1, rows[:, 0]).index_select(2, columns[:, 0]).flatten(1)
            if few.shape[1] < weight[0].numel():
                spread = (few.t().contiguous() @ weight.flatten(1)).t()
            else:
                spread = weight.flatten(1).t() @ few
            spread = _repeat(spread.reshape(-1, len(rows), len(columns)), row_of, column_of)
            grad_input = F.fold(spread.flatten(1)[None], *ctx.settings)
        return grad_input, grad_weight, grad_bias, None, None, None, None


def _distinct(image: Tensor, axis: int, step: int, taps: list[int]) -> tuple[Tensor, Tensor]:
    """Find the windows along an axis that differ from the one before.

    Returns:
        (windows, taps) coordinates along the axis that each distinct window reads, and (all windows,) which of the
        distinct ones each window equals.
    """
    size = image.shape[axis]
    same = _equal_slices(image[:1], axis, step)
    if not any(same):  # settled by one channel, as in all but the first layers
        return _all_windows(size, step, tuple(taps))
    same = _equal_slices(image, axis, step)
    count = (size - taps[-1] - 1) // step + 1
    fresh = [not i or not all(same[(i - 1) * step + tap] for tap in taps) for i in range(count)]
    first = torch.tensor([i * step for i in range(count) if fresh[i]])
    return first[:, None] + torch.tensor(taps), torch.tensor(fresh).cumsum(0) - 1


def _equal_slices(image: Tensor, axis: int, step: int) -> list[bool]:
    length = image.shape[axis] - step
    equal = image.narrow(axis, step, length) == image.narrow(axis, 0, length)
    return equal.all(0).all(2 - axis).tolist()  # channels first, then the other axis of (H, W)


@functools.lru_cache(maxsize=256)
def _all_windows(size: int, step: int, taps: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    first = torch.arange(0, size - taps[-1], step)
    return first[:, None] + torch.tensor(taps), torch.arange(len(first))


def _repeat(values: Tensor, row_of: Tensor, column_of: Tensor) -> Tensor:
    """Lay out (C, distinct rows, distinct columns) as (C, rows, columns)."""
    if values.shape[1:] == (len(row_of), len(column_of)):
        return values
    return values.index_select(1, row_of).index_select(2, column_of)


def _gather(values: Tensor, axis: int, group_of: Tensor) -> Tensor:
    """Add up what belongs to the same distinct row or column: the transpose of repeating it."""
    groups = int(group_of[-1]) + 1
    if groups == len(group_of):
        return values
    shape = list(values.shape)
    shape[axis] = groups
    return values.new_zeros(shape).index_add_(axis, group_of, values)
