"""The layers and functions of a network that pass no gradient on, or in which numbers overflow."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode


class Calls(TorchFunctionMode):
    """Within a ``with`` block, note the calls of a model's layers, and of functions outside of layers.

    A layer is a module that has no others. An edge of the graph stands for each tensor: a function in place changes
    the tensor, but not the edge that it had before.

    Attributes:
        noted: of each call its name, ``layer1.conv (Conv2d)`` or ``clamp_ of layer1 (Block)``, the edge of its output,
            and those of its inputs that need a gradient.
        cut: the names of layers and functions that make of such inputs numbers without a gradient, as ``x.detach()``.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.noted: list[tuple[str, GradientEdge, list[GradientEdge]]] = []
        self.cut: list[str] = []
        self._model, self._path = model, []

    def __enter__(self) -> 'Calls':
        self._handles = []
        for name, module in self._model.named_modules():
            told, is_layer = f'{name or "the model"} ({type(module).__name__})', not any(module.children())
            self._handles += [
                module.register_forward_pre_hook(functools.partial(self._enter, told, is_layer)),
                module.register_forward_hook(self._leave),
            ]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def __torch_function__(self, func: Callable, _types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        told, is_layer, _ = self._path[-1] if self._path else ('', True, [])
        inputs = [] if is_layer else _edges(args)
        output = func(*args, **(kwargs or {}))
        name = getattr(func, '__name__', func)
        name = func.__self__.__name__ if name == '__get__' else name  # x.data
        self._note(f'{name} of {told}', inputs, output)
        return output

    def _enter(self, told: str, is_layer: bool, _module: nn.Module, inputs: tuple) -> None:
        self._path.append((told, is_layer, _edges(inputs)))

    def _leave(self, _module: nn.Module, _inputs: tuple, output: Any) -> None:
        told, is_layer, inputs = self._path.pop()
        self._note(told, inputs if is_layer else [], output)

    def _note(self, told: str, inputs: list[GradientEdge], output: Any) -> None:
        if not inputs or not isinstance(output, Tensor):
            return
        if output.requires_grad:
            self.noted.append((told, get_gradient_edge(output), inputs))
        elif output.is_floating_point():  # no comparison and no index, which nobody differentiates
            self.cut.append(told)


def _edges(values: Any) -> list[GradientEdge]:
    flat = [x for value in values for x in (value if isinstance(value, list | tuple) else [value])]
    return [get_gradient_edge(x) for x in flat if isinstance(x, Tensor) and x.requires_grad]


def find_blocked(model: nn.Module, forward: Callable[[], Tensor]) -> list[str]:
    """Name the layers, and functions outside of layers, whose inputs get a gradient of 0, though their outputs do not.

    Args:
        model: unchanged.
        forward: calls it; the sum of what this returns is differentiated.
    """
    with Calls(model) as calls:
        total = forward().sum()
    if not total.requires_grad or not calls.noted:
        return []
    flat = [edge for _, output, inputs in calls.noted for edge in (output, *inputs)]
    reached = iter(
        [grad is not None and bool(grad.any()) for grad in torch.autograd.grad(total, flat, allow_unused=True)]
    )
    blocked = []
    for told, _, inputs in calls.noted:
        output, *passed = [next(reached) for _ in range(1 + len(inputs))]
        if output and not any(passed):
            blocked.append(told)
    return blocked


def find_cuts(model: nn.Module, forward: Callable[[], Tensor]) -> list[str]:
    """Name the layers, and functions outside of layers, whose outputs have no gradient, though their inputs have one.

    Arguments as in :func:`find_blocked`.
    """
    with Calls(model) as calls:
        forward()
    return calls.cut


def find_overflow(model: nn.Module, forward: Callable[[], Tensor]) -> str | None:
    """Name the first layer with an output that is not finite, None if there is none."""
    found = []

    def look(name: str, layer: nn.Module, _inputs: tuple, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and not output.isfinite().all():
            found.append(f'{name} ({type(layer).__name__})')

    layers = {name: layer for name, layer in model.named_modules() if not any(layer.children())}
    handles = [layer.register_forward_hook(functools.partial(look, name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
