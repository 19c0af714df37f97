"""The layers of a network, modules that have no others, that pass no gradient on, or in which numbers overflow."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge


def find_blocked(model: nn.Module, forward: Callable[[], Tensor]) -> list[str]:
    """Name the layers whose inputs get a gradient of 0, though their outputs do not.

    Where there are none: the layers that make of their inputs an output without a gradient, such as ``x.detach()``. And
    where there are none of these: 'what follows' the last layer whose output gets a gradient of 0, such as ``clamp``.

    Args:
        model: unchanged.
        forward: calls it; the sum of what this returns is differentiated.
    """
    entered: list[list[GradientEdge]] = []  # edges, for a function in place changes the tensor, but not the edge before
    calls, cut = [], []

    def enter(_layer: nn.Module, inputs: tuple) -> None:
        entered.append(_edges(inputs))

    def leave(told: str, _layer: nn.Module, _inputs: tuple, output: Any) -> None:
        inputs = entered.pop()
        if inputs and isinstance(output, Tensor):
            calls.append((told, _edges([output]), inputs))
            if not output.requires_grad:
                cut.append(told)

    with _watched(model, leave, enter):
        total = forward().sum()
    flat = [edge for _, output, inputs in calls for edge in (*output, *inputs)]
    grads = torch.autograd.grad(total, flat, allow_unused=True) if flat and total.requires_grad else [None] * len(flat)
    reached = iter([grad is not None and bool(grad.any()) for grad in grads])
    blocked, unreached = [], []
    for told, output, inputs in calls:
        passed, came = (sum(next(reached) for _ in edges) for edges in (output, inputs))
        if passed and not came:
            blocked.append(told)
        if not passed:
            unreached.append(told)
    return blocked or cut or [f'what follows {told}' for told in unreached[-1:]]


def _edges(values: Any) -> list[GradientEdge]:
    flat = [x for value in values for x in (value if isinstance(value, list | tuple) else [value])]
    return [get_gradient_edge(x) for x in flat if isinstance(x, Tensor) and x.requires_grad]


def find_overflow(model: nn.Module, forward: Callable[[], Tensor]) -> str | None:
    """Name the first layer with an output that is not finite, None if there is none."""
    found = []

    def leave(told: str, _layer: nn.Module, _inputs: tuple, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and not output.isfinite().all():
            found.append(told)

    with torch.no_grad(), _watched(model, leave):
        forward()
    return found[0] if found else None


@contextmanager
def _watched(model: nn.Module, leave: Callable, enter: Callable | None = None) -> Iterator[None]:
    """Hooks of every layer for the length of a ``with`` block; ``leave`` gets '<name> (<class>)' first."""
    handles = []
    for name, layer in model.named_modules():
        if not any(layer.children()):
            told = f'{name or "the model"} ({type(layer).__name__})'
            handles.append(layer.register_forward_hook(functools.partial(leave, told)))
            handles += [layer.register_forward_pre_hook(enter)] if enter else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
