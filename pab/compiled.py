"""Elementwise passes over large tensors: one compiled loop, or the same function operation by operation.

The functions live beside what they compute (:mod:`pab.psg.kernels`, :mod:`pab.optim.flips`). A compiled loop is made to
round after every operation, as torch's own operations do, so both ways give the same numbers bit for bit.
"""

import contextlib
import functools
import itertools
import os
import types
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_failed = False
_variants = itertools.count()

EXAMPLE_SHAPES = ((), (1 << 20,), (1 << 6, 1 << 14))  # of a loop's arguments, by dimensions; it is tuned for these


def is_compiled() -> bool:
    """True if large elementwise passes run compiled; the numbers are the same either way.

    The environment variable ``PAB_COMPILE`` (1 or 0; unset is 1; else ValueError) says so, until a compilation fails:
    then a warning is given once, and the passes run operation by operation.
    """
    setting = os.environ.get('PAB_COMPILE', '1')
    if setting not in ('0', '1'):
        raise ValueError(f'PAB_COMPILE must be 0 or 1, got {setting!r}; unset it for the default, 1')
    return setting == '1' and not _failed


def run_compiled(function: Callable, tensors: Sequence[Tensor | None], constants: tuple = ()):
    """``function(*tensors, *constants)`` as one compiled loop; None where there is to be none, or no compiler.

    Args:
        function: works entry by entry, or reduces; may change its arguments in place; returns a tensor or several.
        tensors: contiguous, of at most two dimensions, equally many in equal shapes; or None. Nothing is recorded for
            autograd.
        constants: hashable.
    """
    global _failed
    if torch.compiler.is_compiling() or not is_compiled():
        return None
    kinds = [None if tensor is None else (tensor.dim(), tensor.dtype, tensor.device) for tensor in tensors]
    present = [tensor for tensor in tensors if tensor is not None]
    # a subclass, such as a fake tensor, has no memory to loop over; indices are of 32 bits
    if any(type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.numel() >= 1 << 31 for tensor in present):
        return None
    try:
        out = compile_pass(function, constants, torch.get_num_threads(), *kinds)(present)
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
    return out[0] if len(out) == 1 else tuple(out)


@functools.cache
def compile_pass(function: Callable, constants: tuple, threads: int, *kinds: tuple | None) -> Callable:
    """A loop for lists of tensors of these kinds (dimensions, type, device), of any sizes, in that many threads."""

    def run(*present):
        present = iter(present)
        out = function(*(None if kind is None else next(present) for kind in kinds), *constants)
        return out if isinstance(out, tuple) else (out,)

    if all(device.type == 'cpu' for _, _, device in filter(None, kinds)):
        with contextlib.suppress(ImportError, AttributeError, TypeError):  # this torch has it elsewhere, or otherwise
            return _call_directly(run, kinds)
    # dynamo counts the variants of one code object and gives up at the eighth: each gets its own
    name = f'pab_{function.__name__}_{next(_variants)}'
    run = types.FunctionType(run.__code__.replace(co_name=name), globals(), name, None, run.__closure__)
    # without the option, a GPU's loop would round a product and the sum after it once instead of twice
    loop = torch.compile(run, fullgraph=True, dynamic=True, options={'emulate_precision_casts': True})

    def call(present: Sequence[Tensor]) -> Sequence[Tensor]:
        with torch.no_grad():
            return loop(*present)

    return call


def _call_directly(run: Callable, kinds: Sequence[tuple | None]) -> Callable:
    """The loop that torch.compile makes, without the checks that it makes in each call.

    They are a large part of the Python that a step on a CPU runs, and kinds say all that they would find. It is made
    for contiguous tensors, which torch.compile does not know them to be. The functions are private ones of torch.
    """
    # here, since only what compiles shall wait for these imports
    from torch._inductor import config, decomposition
    from torch._inductor.compile_fx import compile_fx_inner
    from torch.fx.experimental.proxy_tensor import make_fx

    examples = [torch.empty(EXAMPLE_SHAPES[dim], dtype=dtype) for dim, dtype, _ in filter(None, kinds)]
    with torch.no_grad(), config.patch(emulate_precision_casts=True):
        trace = make_fx(torch.func.functionalize(run), decomposition.select_decomp_table(), tracing_mode='symbolic')
        graph = trace(*examples)
        return compile_fx_inner(graph, [node.meta['val'] for node in graph.graph.find_nodes(op='placeholder')])
