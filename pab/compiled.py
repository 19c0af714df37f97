"""Elementwise passes over large tensors: one compiled loop, or the same function operation by operation.

The functions live beside what they compute (:mod:`pab.psg.kernels`, :mod:`pab.optim.flips`). A compiled loop is made to
round after every operation, as torch's own operations do, so both ways give the same numbers bit for bit.
"""

import functools
import itertools
import os
import types
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_wanted: bool | None = None  # None: the environment decides
_failed = False
_variants = itertools.count()


def use_compiled(wanted: bool | None) -> None:
    """Say whether large elementwise passes run compiled; the numbers are the same either way.

    None gives the choice back to the environment variable ``PAB_COMPILE`` (1 or 0; unset is 1). Where compilation
    fails, a warning is given once and the passes run operation by operation; ``use_compiled(True)`` tries again.
    """
    global _wanted, _failed
    if not (wanted is None or isinstance(wanted, bool)):
        raise TypeError(f'use_compiled: wanted must be True, False or None, got {wanted!r}')
    _wanted, _failed = wanted, False


def is_compiled() -> bool:
    """Whether large elementwise passes run compiled. Raises ValueError for a ``PAB_COMPILE`` that is not 0 or 1."""
    setting = os.environ.get('PAB_COMPILE', '1')
    if setting not in ('0', '1'):
        raise ValueError(f'PAB_COMPILE must be 0 or 1, got {setting!r}; unset it for the default, 1')
    return not _failed and (setting == '1' if _wanted is None else _wanted)


def run_compiled(function: Callable, tensors: Sequence[Tensor | None], constants: tuple = ()):
    """``function(*tensors, *constants)`` as one compiled loop; None where there is to be none, or no compiler.

    Args:
        function: works entry by entry, may change its arguments in place, and returns something else than None.
        tensors: of one dimension and equal length; or of none, for numbers that change; or None.
        constants: hashable.
    """
    global _failed
    if torch.compiler.is_compiling() or not is_compiled():
        return None
    for tensor in tensors:
        if tensor is not None and tensor.dim():
            torch._dynamo.mark_dynamic(tensor, 0)
    kinds = [None if tensor is None else (tensor.dtype, tensor.device.type) for tensor in tensors]
    try:
        return compile_pass(function, constants, *kinds)(*tensors)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler or its absence raises, before the loop has run
        _failed = True
        reason = (str(error).strip().splitlines() or [''])[0]
        warnings.warn(
            f'pab: elementwise passes run uncompiled, with the same results but slower: {type(error).__name__}: '
            f'{reason}. Install a C++ compiler (CPU) or triton (CUDA), or set PAB_COMPILE=0 to choose this.',
            stacklevel=2,
        )
        return None


@functools.cache
def compile_pass(function: Callable, constants: tuple, *kinds: tuple | None) -> Callable:
    """``function(*tensors, *constants)``, compiled once for the constants and kinds of the tensors, for any sizes."""

    def run(*tensors):
        return function(*tensors, *constants)

    # dynamo counts the variants of one code object and gives up at the eighth: each gets its own
    name = f'pab_{function.__name__}_{next(_variants)}'
    run = types.FunctionType(run.__code__.replace(co_name=name), globals(), name, None, run.__closure__)
    # without the option, a GPU's loop would round a product and the sum after it once instead of twice
    return torch.compile(run, fullgraph=True, options={'emulate_precision_casts': True})
