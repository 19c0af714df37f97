"""Convolutions of one image as matrix products over its windows, each distinct window taken once.

Along an axis, ``Runs`` say for each position which distinct row (or column) is there. They start at 0, and each entry
equals the one before or is one more: only neighbours are known to be equal.
"""

import functools
from collections.abc import Iterable, MutableMapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Runs = tuple[int, ...]


class Common(NamedTuple):
    """Positions told apart that either of two axes tells apart."""

    runs: Runs
    of_first: Runs
    """For each distinct position the row of the first image."""
    of_second: Runs


class Axis(NamedTuple):
    """The windows along one axis."""

    reads: Runs
    """The rows that the distinct windows read, window after window; with padding the first and the last row are its
    zeros, before and behind the image."""
    runs: Runs
    """Which of the distinct windows each window is; empty where none fits into the image."""


class Geometry(NamedTuple):
    """Where a convolution or a pooling reads: each pair is (height, width)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @classmethod
    def of(cls, kernel, stride, padding, dilation) -> 'Geometry':
        """Take numbers or pairs, as torch does."""
        return cls(*map(_pair, (kernel, stride, padding, dilation)))

    @property
    def reads_pixels(self) -> bool:
        """Whether each window is one pixel, and each pixel a window."""
        return self.kernel == self.stride == (1, 1) and self.padding == (0, 0)

    def axes(self, rows: Runs, columns: Runs) -> tuple[Axis, Axis]:
        """The windows in an image of such rows and columns."""
        of_rows, of_columns = zip((rows, columns), *self, strict=True)
        return windows_along(*of_rows), windows_along(*of_columns)

    def side_by_side(self, values: Tensor, axes: tuple[Axis, Axis], border: float = 0.0) -> Tensor:
        """Lay the distinct windows of (1, C, rows, columns) next to each other, where nothing overlaps any more."""
        height, width = (min(padding, 1) for padding in self.padding)  # one row stands for all of a border
        if height or width:
            values = F.pad(values, (width, width, height, height), value=border)
        return take(values, axes[0].reads, axes[1].reads)


def _pair(value: int | Iterable[int]) -> tuple[int, int]:
    values = tuple(map(int, value)) if isinstance(value, Iterable) else (int(value),)
    return values * (2 if len(values) == 1 else 1)


def take(values: Tensor, rows: Runs, columns: Runs) -> Tensor:
    """Pick rows and columns of (1, C, rows, columns), some of them several times."""
    for dim, picked in ((2, rows), (3, columns)):
        if picked != tuple(range(values.shape[dim])):
            values = values.index_select(dim, _index(picked))
    return values


@functools.lru_cache(maxsize=512)
def _index(picked: Runs) -> Tensor:
    return torch.tensor(picked)


@functools.lru_cache(maxsize=256)
def common(first: Runs, second: Runs) -> Common:
    """See :class:`Common`; both axes have the same length."""
    distinct, runs = _distinct(list(zip(first, second, strict=True)))
    return Common(runs, tuple(a for a, _ in distinct), tuple(b for _, b in distinct))


@functools.lru_cache(maxsize=256)
def windows_along(runs: Runs, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    """See :class:`Axis`."""
    rows = (0,) * padding + tuple(row + 1 for row in runs) + (runs[-1] + 2,) * padding if padding else runs
    starts = range(0, len(rows) - dilation * (kernel - 1), stride)
    windows, which = _distinct([tuple(rows[start + dilation * tap] for tap in range(kernel)) for start in starts])
    return Axis(tuple(row for window in windows for row in window), which)


def _distinct(items: list[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], Runs]:
    """Keep one of equal neighbours; tell which of the kept each item is."""
    kept, runs = [], []
    for item in items:
        if not kept or item != kept[-1]:
            kept.append(item)
        runs.append(len(kept) - 1)
    return kept, tuple(runs)


class WindowProduct(torch.autograd.Function):
    """y (O, L) = W (O, K) @ windows (K, L), for L positions and K = C * kernel height * kernel width.

    ``apply(values, weight, bias, geometry, axes, out)``: values (1, C, rows, columns) on the CPU; ``axes`` name the
    distinct windows, None takes all of a plain image; ``out`` maps ``id(weight)`` to where its gradient goes, once.
    Differentiable once.
    """

    @staticmethod
    def forward(
        ctx,
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        axes: tuple[Axis, Axis] | None,
        out: MutableMapping[int, Tensor],
    ) -> Tensor:
        ctx.geometry, ctx.axes, ctx.out, ctx.key, ctx.shape = geometry, axes, out, id(weight), values.shape
        windows = _unfold(values, geometry, axes)
        # (L, K) for few positions and a large weight: the products then read the weight in the order it lies in memory
        ctx.tall = windows.shape[1] < windows.shape[0]
        if ctx.tall:
            windows = windows.t().contiguous()
            # contiguous, here and in _fold: on the strides of a lone transposed image, torch's backward pass of an
            # evaluated BatchNorm gives wrong gradients
            result = (windows @ weight.flatten(1).t()).t().contiguous()
        else:
            result = weight.flatten(1) @ windows
        if bias is not None:
            result = result + bias[:, None]
        ctx.save_for_backward(windows, weight)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        windows, weight = ctx.saved_tensors
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_input = grad_weight = grad_bias = None
        if needs_weight:
            buffer = ctx.out.pop(ctx.key, None)
            grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format) if buffer is None else buffer
            torch.mm(grad, windows if ctx.tall else windows.t(), out=grad_weight.view(len(weight), -1))
        if needs_bias:
            grad_bias = grad.sum(1)
        if needs_input:
            spread = (grad.t().contiguous() @ weight.flatten(1)).t() if ctx.tall else weight.flatten(1).t() @ grad
            grad_input = _fold(spread, ctx.shape, ctx.geometry, ctx.axes)
        return grad_input, grad_weight, grad_bias, None, None, None


def _unfold(values: Tensor, geometry: Geometry, axes: tuple[Axis, Axis] | None) -> Tensor:
    """Lay out the windows, (K, L)."""
    if geometry.reads_pixels:
        return values[0].flatten(1)
    if axes is None:
        return F.unfold(values, geometry.kernel, geometry.dilation, geometry.padding, geometry.stride)[0]
    return F.unfold(geometry.side_by_side(values, axes), geometry.kernel, stride=geometry.kernel)[0]


def _fold(windows: Tensor, shape: torch.Size, geometry: Geometry, axes: tuple[Axis, Axis] | None) -> Tensor:
    """Add up (K, L) to an image (1, C, H, W): the transpose of :func:`_unfold`."""
    if geometry.reads_pixels:
        return windows.contiguous().view(shape)
    if axes is None:
        return F.fold(windows[None], shape[2:], geometry.kernel, geometry.dilation, geometry.padding, geometry.stride)
    image = F.fold(windows[None], tuple(len(axis.reads) for axis in axes), geometry.kernel, stride=geometry.kernel)
    for dim, padding, axis in zip((2, 3), geometry.padding, axes, strict=True):
        border = min(padding, 1)
        lengths = [*image.shape[:dim], shape[dim] + 2 * border, *image.shape[dim + 1 :]]
        image = image.new_zeros(lengths).index_add_(dim, _index(axis.reads), image).narrow(dim, border, shape[dim])
    return image
