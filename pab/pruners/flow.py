"""The flow through a network for one image of equal pixels, in which most rows and columns are computed once.

A convolution that pads with zeros changes such an image at its border only, one ring a layer. So neighbouring rows stay
equal, and columns likewise: an image is kept as its distinct rows and columns, and a convolution is one matrix product
over its distinct windows. (torch, besides, has no fast float64 convolution on a CPU.)
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

Runs = tuple[int, ...]
"""For each position along an axis the distinct one it equals: 0, then its neighbour's or one more."""


class NeedsEveryPixel(Exception):
    """The network does something that the gradients of a :class:`RepetitiveImage` cannot follow."""


class RepetitiveImage(Tensor):
    """An image (1, C, H, W) kept as its distinct rows and columns; understood inside :class:`FewWindows` alone.

    Args:
        values: (1, C, distinct rows, distinct columns), a plain tensor.
        rows: of length H, which of the distinct rows each row is.
        columns: of length W, likewise.
    """

    @staticmethod
    def __new__(cls, values: Tensor, rows: Runs, columns: Runs):
        shape = (*values.shape[:2], len(rows), len(columns))
        return Tensor._make_wrapper_subclass(cls, shape, dtype=values.dtype, device=values.device)

    def __init__(self, values: Tensor, rows: Runs, columns: Runs):
        self.values, self.rows, self.columns = values, rows, columns

    @classmethod
    def of_ones(cls, shape: tuple[int, int, int], like: Tensor) -> 'RepetitiveImage':
        """Return an image of ones; shape is (C, H, W), type and device are those of ``like``."""
        return cls(like.new_ones(1, shape[0], 1, 1), (0,) * shape[1], (0,) * shape[2])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NeedsEveryPixel(f'{func} was reached without a torch function to follow')


class FewWindows(TorchFunctionMode):
    """Inside the context torch functions understand a :class:`RepetitiveImage`.

    Convolution, max pooling, BatchNorm in evaluation mode, ReLU and addition keep it; all other functions get the
    plain image. A plain float64 image on the CPU is convolved by a matrix product, too. Results are the ordinary ones
    but for the order of the sums. Second derivatives are not available.

    Args:
        out: (weight, buffer of its shape): where to put the gradient of a convolution's weight, so that no memory has
            to be found for it. A buffer serves once; a weight that is used again gets fresh memory.

    Raises:
        NeedsEveryPixel: from inside the network.
    """

    def __init__(self, out: list[tuple[Tensor, Tensor]] = ()):
        super().__init__()
        self._out = {id(weight): buffer for weight, buffer in out}

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None):
        kwargs = dict(kwargs or {})
        if func in _CONVOLUTIONS:
            return _convolve(self._out, func, *args, **kwargs)
        # not from types: handle_torch_function leaves subclasses out of it while a mode is active
        if func in _FACTS or not (_holds_image(args) or _holds_image(kwargs.values())):
            return func(*args, **kwargs)
        _refuse_without_gradients(func)
        if func in _KEEPERS:
            return _KEEPERS[func](func, *args, **kwargs)
        if _may_change_its_input(func, args, kwargs):
            raise NeedsEveryPixel(f'{func} may change an image in place')
        args, kwargs = _plain_everywhere((args, kwargs))
        return func(*args, **kwargs)


def _holds_image(values: Iterable[Any]) -> bool:
    return any(
        isinstance(value, RepetitiveImage) or (isinstance(value, list | tuple) and _holds_image(value))
        for value in values
    )


def _refuse_without_gradients(func: Callable) -> None:
    # the forward pass of a custom autograd function runs so, and its backward pass would never be asked
    if not torch.is_grad_enabled():
        raise NeedsEveryPixel(f'{func} was called where no gradient is recorded')


def _is_in_place(func: Callable) -> bool:
    return func.__name__.endswith('_') and not func.__name__.startswith('__')


def _may_change_its_input(func: Callable, args: tuple, kwargs: Mapping[str, Any]) -> bool:
    name = func.__name__
    if _is_in_place(func) or name.startswith('__i') or name in ('__setitem__', '__set__'):
        return True
    if kwargs.get('inplace') or kwargs.get('out') is not None:
        return True
    # 'inplace' may also come by position, where it is one True among others
    return getattr(func, '__module__', None) == F.__name__ and any(arg is True for arg in args)


def _image(values: Tensor, rows: Runs, columns: Runs) -> Tensor:
    """Return a plain tensor if all is distinct, which everything runs on as it is."""
    if values.shape[2:] == (len(rows), len(columns)):
        return values
    return RepetitiveImage(values, rows, columns)


def _plain(image: RepetitiveImage) -> Tensor:
    return _take(image.values, image.rows, image.columns)


def _plain_everywhere(tree: Any) -> Any:
    return pytree.tree_map_only(RepetitiveImage, _plain, tree)


def _parts(image: Tensor) -> tuple[Tensor, Runs, Runs]:
    """Return values, rows and columns of an image of either kind."""
    if isinstance(image, RepetitiveImage):
        return image.values, image.rows, image.columns
    return image, tuple(range(image.shape[2])), tuple(range(image.shape[3]))


def _take(values: Tensor, rows: Runs, columns: Runs) -> Tensor:
    """Pick rows and columns, some of them several times."""
    for dim, picked in ((2, rows), (3, columns)):
        if picked != tuple(range(values.shape[dim])):
            values = values.index_select(dim, _index(picked, values.device))
    return values


@functools.lru_cache(maxsize=512)
def _index(picked: Runs, device: torch.device) -> Tensor:
    return torch.tensor(picked, device=device)


# ---- functions that keep an image repetitive


def _normalize(func, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    settings = running_mean, running_var, weight, bias, training, momentum, eps
    if training or not isinstance(input, RepetitiveImage):  # statistics over the image need every pixel
        return func(_plain_everywhere(input), *settings)
    return RepetitiveImage(func(input.values, *settings), input.rows, input.columns)


def _relu(func, input, inplace=False):
    result = RepetitiveImage(torch.relu(input.values), input.rows, input.columns)
    return _store(input, result) if inplace or _is_in_place(func) else result


def _add(func, input, other, *, alpha=1, out=None):
    if not isinstance(other, Tensor) or other.shape != input.shape or input.dim() != 4 or out is not None:
        raise NeedsEveryPixel(f'{func} adds something of another shape to an image')
    (first, *runs), (second, *second_runs) = _parts(input), _parts(other)
    if runs != second_runs:
        rows, columns = (_common(*of_axis) for of_axis in zip(runs, second_runs, strict=True))
        first = _take(first, rows.of_first, columns.of_first)
        second = _take(second, rows.of_second, columns.of_second)
        runs = [rows.runs, columns.runs]
    result = torch.add(first, second, alpha=alpha)
    return _store(input, RepetitiveImage(result, *runs)) if _is_in_place(func) else _image(result, *runs)


def _store(image: Tensor, result: RepetitiveImage) -> Tensor:
    """Do what an operation in place does: later uses of the image see the result."""
    if not isinstance(image, RepetitiveImage):
        return image.copy_(_plain(result))
    image.values, image.rows, image.columns = result.values, result.rows, result.columns
    return image


class _Common(NamedTuple):
    runs: Runs
    of_first: Runs
    of_second: Runs


@functools.lru_cache(maxsize=256)
def _common(first: Runs, second: Runs) -> _Common:
    """Tell positions apart that either of two images tells apart."""
    distinct, runs = _distinct(list(zip(first, second, strict=True)))
    return _Common(runs, tuple(a for a, _ in distinct), tuple(b for _, b in distinct))


def _distinct(items: list[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], Runs]:
    """Keep one of equal neighbours; tell which of the kept each item is."""
    kept, runs = [], []
    for item in items:
        if not kept or item != kept[-1]:
            kept.append(item)
        runs.append(len(kept) - 1)
    return kept, tuple(runs)


# ---- functions that read windows


class _Axis(NamedTuple):
    """The windows along one axis."""

    reads: Runs
    """For each distinct window the distinct rows that it reads, one after the other; 0 is the border, if there is."""
    runs: Runs
    """Which of the distinct windows each window is."""


@functools.lru_cache(maxsize=256)
def _windows(runs: Runs, kernel: int, stride: int, padding: int, dilation: int) -> _Axis:
    rows = (0,) * padding + tuple(row + 1 for row in runs) + (runs[-1] + 2,) * padding if padding else runs
    starts = range(0, len(rows) - dilation * (kernel - 1), stride)
    windows, runs = _distinct([tuple(rows[start + dilation * tap] for tap in range(kernel)) for start in starts])
    return _Axis(tuple(row for window in windows for row in window), runs)


class _Geometry(NamedTuple):
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def axes(self, rows: Runs, columns: Runs) -> tuple[_Axis, _Axis]:
        settings = zip((rows, columns), *self, strict=True)
        return tuple(_windows(*of_axis) for of_axis in settings)

    @property
    def border(self) -> tuple[int, int, int, int]:
        """As ``F.pad`` takes it: one row stands for all of a border."""
        height, width = (min(padding, 1) for padding in self.padding)
        return width, width, height, height


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value) * (2 if len(value) == 1 else 1)


def _max_pool(func, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    if ceil_mode or return_indices or input.dim() != 4:
        return func(_plain(input), kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    geometry = _Geometry(_pair(kernel_size), _pair(stride or kernel_size), _pair(padding), _pair(dilation))
    rows, columns = geometry.axes(input.rows, input.columns)
    bordered = F.pad(input.values, geometry.border, value=-torch.inf)
    values = F.max_pool2d(_take(bordered, rows.reads, columns.reads), geometry.kernel)
    return _image(values, rows.runs, columns.runs)


def _convolve(out, func, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    repetitive = isinstance(input, RepetitiveImage)
    if repetitive:
        _refuse_without_gradients(func)
    alone = input.dim() == 4 and len(input) == 1 and input.dtype == torch.float64 and input.device.type == 'cpu'
    if not (repetitive or alone) or groups != 1 or isinstance(padding, str):
        return func(_plain_everywhere(input), weight, bias, stride, padding, dilation, groups)
    values, *runs = _parts(input)
    geometry = _Geometry(tuple(weight.shape[2:]), _pair(stride), _pair(padding), _pair(dilation))
    rows, columns = geometry.axes(*runs)
    result = _Product.apply(values, weight, bias, geometry, (rows, columns) if repetitive else None, out)
    # a view from here, not from inside of the function: such a one could not be changed in place
    return _image(result.view(1, len(weight), rows.runs[-1] + 1, columns.runs[-1] + 1), rows.runs, columns.runs)


class _Product(torch.autograd.Function):
    """y (O, L) = W (O, K) @ windows (K, L), for L positions and K = C * kernel height * kernel width.

    With ``axes`` only their distinct windows are computed, else every one.
    """

    @staticmethod
    def forward(ctx, values, weight, bias, geometry: _Geometry, axes: tuple[_Axis, _Axis] | None, out):
        ctx.geometry, ctx.axes, ctx.out, ctx.key, ctx.shape = geometry, axes, out, id(weight), values.shape
        windows = _unfold(values, geometry, axes)
        # (L, K) for few positions and a large weight: the products then read the weight in the order it lies in memory
        ctx.tall = windows.shape[1] < windows.shape[0]
        if ctx.tall:
            windows = windows.t().contiguous()
            # contiguous: torch's backward pass of an evaluated BatchNorm errs on the strides of a lone transposed image
            result = (windows @ weight.flatten(1).t()).t().contiguous()
        else:
            result = weight.flatten(1) @ windows
        if bias is not None:
            result = result + bias[:, None]
        ctx.save_for_backward(windows, weight)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
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


def _unfold(values: Tensor, geometry: _Geometry, axes: tuple[_Axis, _Axis] | None) -> Tensor:
    """Lay out the windows, (K, L)."""
    if axes is None:
        return F.unfold(values, geometry.kernel, geometry.dilation, geometry.padding, geometry.stride)[0]
    side_by_side = _take(F.pad(values, geometry.border), axes[0].reads, axes[1].reads)
    return F.unfold(side_by_side, geometry.kernel, stride=geometry.kernel)[0]


def _fold(windows: Tensor, shape: torch.Size, geometry: _Geometry, axes: tuple[_Axis, _Axis] | None) -> Tensor:
    """Add up (K, L) to an image (1, C, H, W): the transpose of :func:`_unfold`."""
    if axes is None:
        return F.fold(windows[None], shape[2:], geometry.kernel, geometry.dilation, geometry.padding, geometry.stride)
    image = F.fold(windows[None], tuple(len(axis.reads) for axis in axes), geometry.kernel, stride=geometry.kernel)
    for dim, padding, axis in zip((2, 3), geometry.padding, axes, strict=True):
        border = min(padding, 1)
        lengths = [*image.shape[:dim], shape[dim] + 2 * border, *image.shape[dim + 1 :]]
        index = _index(axis.reads, image.device)
        image = image.new_zeros(lengths).index_add_(dim, index, image).narrow(dim, border, shape[dim])
    return image


_FACTS = {Tensor.dim, Tensor.size, *(getattr(Tensor, name).__get__ for name in ('shape', 'ndim', 'dtype', 'device'))}
_CONVOLUTIONS = {torch.conv2d, F.conv2d}
_KEEPERS = {
    F.batch_norm: _normalize,
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), _relu),
    **dict.fromkeys((torch.add, Tensor.add, Tensor.add_), _add),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _max_pool),
}
