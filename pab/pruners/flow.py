"""The flow through a network for one image of equal pixels, in which most rows and columns are computed once.

A convolution that pads with zeros changes such an image at its border only, one ring a layer. So neighbouring rows stay
equal, and columns likewise: an image is kept as its distinct rows and columns while it passes through the network.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .windows import Geometry, Runs, WindowProduct, common, take


def total_flow(
    network: Callable[[Mapping[str, Tensor], Tensor], Tensor],
    weights: Mapping[str, Tensor],
    shape: tuple[int, int, int],
    out: Mapping[str, Tensor],
) -> Tensor:
    """Return the sum of a network's outputs for an image of ones, which can be differentiated once.

    Args:
        network: called as ``network(weights, images)``.
        weights: parameter name -> float64 tensor.
        shape: (C, H, W) of the image.
        out: parameter name -> float64 tensor of its shape, where the gradient of a convolution's weight may go.
    """
    ones = next(iter(weights.values())).new_ones(1, *shape)
    flow = None
    if ones.device.type == 'cpu':  # a GPU adds up repeated rows in any order, and has fast convolutions
        mode = FewWindows([(weight, out[name]) for name, weight in weights.items()])
        # whatever comes out of it: an error that is the network's own will come again
        with contextlib.suppress(Exception), mode:
            flow = network(weights, RepetitiveImage.of_ones(shape)).sum()
        if mode.refused:
            flow = None
    return network(weights, ones).sum() if flow is None else flow


class NeedsEveryPixel(Exception):
    """The network does something that gradients of a :class:`RepetitiveImage` cannot follow."""


class RepetitiveImage(Tensor):
    """A float64 image (1, C, H, W) on the CPU, kept as its distinct rows and columns under :class:`FewWindows`.

    It stays small through functions that treat all pixels of a channel alike or read windows of them. The first other
    function turns it into an ordinary tensor, for good: from then on that is what every use of the image, every view
    and every change in place works on.

    Args:
        values: (1, C, distinct rows, distinct columns), an ordinary tensor.
        rows: of length H, which of the distinct rows each row is.
        columns: of length W, likewise.
    """

    @staticmethod
    def __new__(cls, values: Tensor, rows: Runs, columns: Runs):
        shape = (*values.shape[:2], len(rows), len(columns))
        return Tensor._make_wrapper_subclass(cls, shape, dtype=values.dtype, device=values.device)

    def __init__(self, values: Tensor, rows: Runs, columns: Runs):
        self.values, self.rows, self.columns = values, rows, columns
        self._plain: Tensor | None = None

    @classmethod
    def of_ones(cls, shape: tuple[int, int, int]) -> 'RepetitiveImage':
        """Return an image of ones; shape is (C, H, W)."""
        return cls(torch.ones(1, shape[0], 1, 1, dtype=torch.float64), (0,) * shape[1], (0,) * shape[2])

    @property
    def is_plain(self) -> bool:
        """Whether it is an ordinary tensor by now."""
        return self._plain is not None

    def plain(self) -> Tensor:
        """Turn it into an ordinary tensor; the same one at every call."""
        if self._plain is None:
            self._plain = take(self.values, self.rows, self.columns)
        return self._plain

    def replace(self, values: Tensor, rows: Runs, columns: Runs) -> 'RepetitiveImage':
        """Change it in place, which nothing but this object can see while it is not plain."""
        self.values, self.rows, self.columns = values, rows, columns
        return self

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None):
        if func in _FACTS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        return func(*_with_plain(args), **_with_plain(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NeedsEveryPixel(f'{func} was reached without a torch function to follow')


class FewWindows(TorchFunctionMode):
    """Inside the context a :class:`RepetitiveImage` stays small as long as possible; results are the ordinary ones.

    That is so up to the order of sums. An ordinary float64 image on the CPU is convolved by a matrix product, too,
    which torch does not do. Convolutions can be differentiated once.

    Attributes:
        refused: whether the network did something that cannot be followed; what came out of it is of no use then, even
            if the network caught the error.

    Args:
        out: (weight, buffer of its shape): where to put the gradient of a convolution's weight, so that no memory has
            to be found for it. A buffer serves once; a weight that is used again gets fresh memory. The weights must
            live as long as the context.

    Raises:
        NeedsEveryPixel: from inside the network: an image was used where no gradient is recorded, such as in a custom
            autograd function, or gradients were asked for or changed there.
    """

    def __init__(self, out: Sequence[tuple[Tensor, Tensor]] = ()):
        super().__init__()
        self._out = {id(weight): buffer for weight, buffer in out}
        self.refused = False

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None):
        kwargs = dict(kwargs or {})
        if func in _OF_GRADIENTS:
            self._refuse(f'{func} asks for gradients inside the network')
        if func is torch.conv2d:  # F.conv2d is the same object
            self._check_gradients(func, args, kwargs)
            return _convolve(self._out, func, *args, **kwargs)
        if func in _FACTS or not (_holds_image(args) or _holds_image(kwargs.values())):
            return func(*args, **kwargs)
        self._check_gradients(func, args, kwargs)
        result = _KEEPERS[func](func, *args, **kwargs) if func in _KEEPERS else NotImplemented
        return func(*_with_plain(args), **_with_plain(kwargs)) if result is NotImplemented else result

    def _check_gradients(self, func: Callable, args: tuple, kwargs: Mapping[str, Any]) -> None:
        # the forward pass of a custom autograd function runs so, and its backward pass would never be asked
        if not torch.is_grad_enabled() and (_holds_image(args) or _holds_image(kwargs.values())):
            self._refuse(f'{func} was called where no gradient is recorded')

    def _refuse(self, reason: str) -> None:
        self.refused = True
        raise NeedsEveryPixel(reason)


def _holds_image(values: Iterable[Any]) -> bool:
    return any(
        isinstance(value, RepetitiveImage) or (isinstance(value, list | tuple) and _holds_image(value))
        for value in values
    )


def _with_plain(value: Any) -> Any:
    if isinstance(value, RepetitiveImage):
        return value.plain()
    if isinstance(value, Mapping):
        return {key: _with_plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_with_plain, value))
    return value


def _is_small(value: Any) -> bool:
    return isinstance(value, RepetitiveImage) and not value.is_plain


def _parts(image: Tensor) -> tuple[Tensor, Runs, Runs]:
    """Return values, rows and columns of an image of either kind."""
    if _is_small(image):
        return image.values, image.rows, image.columns
    image = _with_plain(image)
    return image, tuple(range(image.shape[2])), tuple(range(image.shape[3]))


def _image(values: Tensor, rows: Runs, columns: Runs) -> Tensor:
    """Return an ordinary tensor if all is distinct."""
    if values.shape[2:] == (len(rows), len(columns)):
        return values
    return RepetitiveImage(values, rows, columns)


# Functions that keep an image small. They take what the function takes, and return NotImplemented where they cannot.


def _normalize(func, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if training or not _is_small(input):  # statistics over the image need every pixel
        return NotImplemented
    values = func(input.values, running_mean, running_var, weight, bias, training, momentum, eps)
    return RepetitiveImage(values, input.rows, input.columns)


def _pointwise(func, input, *args, **kwargs):
    if not _is_small(input) or _holds_image(args) or _holds_image(kwargs.values()) or 'out' in kwargs:
        return NotImplemented
    given = input.values.clone()  # which the function may change in place
    result = func(given, *args, **kwargs)
    parts = result, input.rows, input.columns
    return input.replace(*parts) if result is given else RepetitiveImage(*parts)


def _combine(func, first, second, **kwargs):
    if 'out' in kwargs or not isinstance(first, Tensor):
        return NotImplemented
    if not isinstance(second, Tensor) or _is_per_channel(second, first):
        return _pointwise(func, first, second, **kwargs)
    if _is_small(second) and _is_per_channel(first, second) and not _is_in_place(func):
        return RepetitiveImage(func(first, second.values, **kwargs), second.rows, second.columns)
    if second.shape != first.shape or first.dim() != 4 or (_is_in_place(func) and not _is_small(first)):
        return NotImplemented
    (one, *runs), (other, *other_runs) = _parts(first), _parts(second)
    if runs != other_runs:
        rows, columns = (common(*of_axis) for of_axis in zip(runs, other_runs, strict=True))
        one = take(one, rows.of_first, columns.of_first)
        other = take(other, rows.of_second, columns.of_second)
        runs = [rows.runs, columns.runs]
    if _is_in_place(func):
        return first.replace(func(one.clone(), other, **kwargs), *runs)
    return _image(func(one, other, **kwargs), *runs)


def _is_per_channel(tensor: Tensor, image: Tensor) -> bool:
    if isinstance(tensor, RepetitiveImage) or tensor.dim() > 4 or image.dim() != 4:
        return False
    channels = tensor.shape[-3] if tensor.dim() > 2 else 1
    return all(size == 1 for size in tensor.shape[-2:] + tensor.shape[:-3]) and channels in (1, image.shape[1])


def _is_in_place(func: Callable) -> bool:
    return func.__name__.endswith('_')


def _concatenate(func, tensors, dim=0):
    if dim not in (1, -3) or any(tensor.dim() != 4 or tensor.shape[2:] != tensors[0].shape[2:] for tensor in tensors):
        return NotImplemented
    values, *runs = zip(*map(_parts, tensors), strict=True)
    rows, columns = (_refine(of_axis) for of_axis in runs)
    picked = [take(*parts) for parts in zip(values, rows[1], columns[1], strict=True)]
    return _image(func(picked, 1), rows[0], columns[0])


def _refine(runs: Sequence[Runs]) -> tuple[Runs, list[Runs]]:
    """Tell positions apart that any of the images tells apart; for each image, the row of each distinct position."""
    finest = runs[0]
    for others in runs[1:]:
        finest = common(finest, others).runs
    return finest, [common(finest, own).of_second for own in runs]


def _max_pool(func, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    if not _is_small(input) or ceil_mode or return_indices:
        return NotImplemented
    geometry = Geometry.of(kernel_size, stride or kernel_size, padding, dilation)
    if any(2 * padding > kernel for padding, kernel in zip(geometry.padding, geometry.kernel, strict=True)):
        return NotImplemented  # for torch to refuse
    return _pool(F.max_pool2d, input, geometry, -torch.inf)


def _average_pool(
    func, input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    if not _is_small(input) or ceil_mode or divisor_override is not None:
        return NotImplemented
    geometry = Geometry.of(kernel_size, stride or kernel_size, padding, 1)
    # padding is left to torch: whether it counts is a setting, and the border would have to know
    return NotImplemented if any(geometry.padding) else _pool(F.avg_pool2d, input, geometry, 0.0)


def _pool(func: Callable, input: RepetitiveImage, geometry: Geometry, border: float):
    rows, columns = axes = geometry.axes(input.rows, input.columns)
    if not rows.runs or not columns.runs:
        return NotImplemented
    values = func(geometry.side_by_side(input.values, axes, border), geometry.kernel)
    return _image(values, rows.runs, columns.runs)


def _convolve(out, func, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    image = input if _is_small(input) else _with_plain(input)
    settings = bias, stride, padding, dilation, groups
    alone = image.dim() == 4 and image.shape[0] == 1 and image.dtype == torch.float64 and image.device.type == 'cpu'
    if not alone or isinstance(padding, str) or not (groups == 1 or _is_small(image)):
        return func(_with_plain(image), weight, *settings)
    values, *runs = _parts(image)
    geometry = Geometry.of(weight.shape[2:], stride, padding, dilation)
    rows, columns = axes = geometry.axes(*runs)
    if not rows.runs or not columns.runs or image.shape[1] != weight.shape[1] * groups:
        return func(_with_plain(image), weight, *settings)  # for torch to refuse
    if groups != 1:
        values = func(geometry.side_by_side(values, axes), weight, bias, geometry.kernel, 0, 1, groups)
        return _image(values, rows.runs, columns.runs)
    result = WindowProduct.apply(values, weight, bias, geometry, axes if _is_small(image) else None, out)
    # a view from here, not from inside of the function: such a one could not be changed in place
    return _image(result.view(1, len(weight), rows.runs[-1] + 1, columns.runs[-1] + 1), rows.runs, columns.runs)


_FACTS = {Tensor.dim, Tensor.size, *(getattr(Tensor, name).__get__ for name in ('shape', 'ndim', 'dtype', 'device'))}
_OF_GRADIENTS = {torch.autograd.grad, torch.autograd.backward, Tensor.backward, Tensor.register_hook}
_ELEMENTWISE = (
    *(F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.hardtanh, F.leaky_relu, F.elu),
    *(F.silu, F.gelu, F.hardswish, F.hardsigmoid, F.mish, torch.sigmoid, Tensor.sigmoid, torch.tanh, Tensor.tanh),
)
_COMBINING = (torch.add, torch.sub, torch.mul, torch.div, Tensor.add, Tensor.sub, Tensor.mul, Tensor.div)
_KEEPERS = {
    F.batch_norm: _normalize,
    **dict.fromkeys(_ELEMENTWISE, _pointwise),
    **dict.fromkeys((*_COMBINING, Tensor.add_, Tensor.sub_, Tensor.mul_, Tensor.div_), _combine),
    torch.cat: _concatenate,
    F.max_pool2d: _max_pool,
    F.avg_pool2d: _average_pool,
}
