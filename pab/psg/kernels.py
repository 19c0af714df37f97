"""The passes over activations that PSG adds to a step, each a single fused loop where there is a compiler.

A pass is a plain function of :mod:`pab.psg.quantize`, applied to the flat storage of a tensor: compiled by
``torch.compile`` (once for all shapes; inductor keeps the result on disk) or, with the same numbers bit for bit,
operation by operation. Where the reductions are concerned, torch's own are as fast as a compiled loop.
"""

import functools
import os
import types
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from . import quantize as q

SMALLEST_COMPILED = 1 << 18  # entries; below, a pass costs less than it takes to repay a compilation
MODES = {'1': True, '0': False}

_wanted: bool | None = None  # None: the environment decides
_failed = False


def use_compiled(wanted: bool | None) -> None:
    """Say whether large elementwise passes run compiled; the numbers are the same either way.

    Args:
        wanted: True or False; None gives the choice back to the environment variable ``PAB_COMPILE`` (1 or 0; unset is
            1). Where compilation fails, a warning is given once and the passes run operation by operation;
            ``use_compiled(True)`` tries again.

    Raises:
        TypeError: ``wanted`` is neither a bool nor None.
    """
    global _wanted, _failed
    if not (wanted is None or isinstance(wanted, bool)):
        raise TypeError(f'use_compiled: wanted must be True, False or None, got {wanted!r}')
    _wanted, _failed = wanted, False


def is_compiled() -> bool:
    """Whether large elementwise passes run compiled. Raises ValueError for a ``PAB_COMPILE`` that is not 0 or 1."""
    if _failed:
        return False
    if _wanted is not None:
        return _wanted
    setting = os.environ.get('PAB_COMPILE', '1')
    if setting not in MODES:
        raise ValueError(f'PAB_COMPILE must be 0 or 1, got {setting!r}; unset it for the default, 1')
    return MODES[setting]


def encode_input(x: Tensor, bits: int, signed: bool) -> tuple[Tensor, Tensor]:
    """The code of a layer's input (N, ...), in the layout of ``x``, and its scale ()."""
    scale = q.input_scale(x if x.dim() > 1 else x[None])
    return _run(q.encode, (bits, signed), x, scale), scale


def decode_input(codes: Tensor, bits: int, signed: bool, dtype: torch.dtype) -> Tensor:
    """:func:`pab.psg.quantize.decode`, in the layout of ``codes``."""
    return _run(q.decode, (bits, signed, dtype), codes)


def quantize_gradient(grad: Tensor, bits: int) -> Tensor:
    """Q of an output gradient, signed, with the maximum of the whole tensor as its scale."""
    return _run(_quantize_signed, (bits,), grad, q.tensor_scale(grad))


def relu_with_mask(x: Tensor) -> tuple[Tensor, Tensor]:
    """relu(x), and 1 where its gradient passes (uint8), both in the layout of ``x``; a NaN passes, as with torch's."""
    return _run(_relu_with_mask, (), x)


def positive(x: Tensor) -> Tensor:
    """1 where the gradient of a ReLU with the output ``x`` passes (uint8), in the layout of ``x``."""
    return _run(_positive, (), x)


def pass_where(grad: Tensor, passes: Tensor) -> Tensor:
    """``grad`` where ``passes`` is 1, else 0, in the layout of ``grad``."""
    return _run(_pass_where, (), grad, passes)


def _relu_with_mask(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.relu(), _positive(x)


def _positive(x: Tensor) -> Tensor:
    # by way of floats: a compiled loop that stores comparisons works entry by entry, 40 times slower
    return torch.where(x <= 0, 0.0, 1.0).to(torch.uint8)


def _pass_where(grad: Tensor, passes: Tensor) -> Tensor:
    return torch.where(passes.to(q.working_dtype(grad.dtype)) == 0, 0, grad)


def _quantize_signed(grad: Tensor, scale: Tensor, bits: int) -> Tensor:
    return q.quantize(grad, bits, True, scale)


def _run(function: Callable, constants: tuple, x: Tensor, *others: Tensor):
    """``function(x, *others, *constants)``, entry by entry: one loop over the storage of ``x`` if that is large.

    ``others`` are scales of no dimension, or tensors of the shape of ``x``; the result is a tensor or a tuple of them.
    """
    global _failed
    if x.numel() < SMALLEST_COMPILED or torch.compiler.is_compiling() or not is_compiled():
        return function(x, *others, *constants)
    # one dimension, so that neither shape nor memory format asks for a kernel of its own
    channels_last = x.dim() == 4 and not x.is_contiguous()
    tensors = [t.permute(0, 2, 3, 1) if channels_last and t.dim() else t for t in (x, *others)]
    shape = tensors[0].shape
    tensors = [t.reshape(-1) if t.dim() else t for t in tensors]  # views, unless x is strided otherwise
    for flat in tensors:
        if flat.dim():
            torch._dynamo.mark_dynamic(flat, 0)
    try:
        out = _compiled(function, constants, x.dtype, x.device.type)(*tensors)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        # Whatever a compiler or its absence raises. A fault of ours is raised again by the plain call.
        _failed = True
        reason = (str(error).strip().splitlines() or [''])[0]
        warnings.warn(
            f'PSG: elementwise passes run uncompiled, with the same results but slower: {type(error).__name__}: '
            f'{reason}. Install a C++ compiler (CPU) or triton (CUDA), or set PAB_COMPILE=0 to choose this.',
            stacklevel=2,
        )
        return function(x, *others, *constants)
    outs = [
        t.view(shape).permute(0, 3, 1, 2) if channels_last else t.view(shape)
        for t in (out if isinstance(out, tuple) else (out,))
    ]
    return tuple(outs) if isinstance(out, tuple) else outs[0]


@functools.cache
def _compiled(function: Callable, constants: tuple, dtype: torch.dtype, device: str) -> Callable:
    def run(*tensors):
        return function(*tensors, *constants)

    # dynamo counts the variants of one code object and gives up at the eighth: each gets its own
    name = f'psg_{function.__name__}_{len(_names)}'
    _names.append(name)
    code = run.__code__.replace(co_name=name)
    return torch.compile(types.FunctionType(code, globals(), name, None, run.__closure__), fullgraph=True)


_names: list[str] = []
