"""Numbers of every layer, to see where a run stopped being finite."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class LayerStatistics:
    """One layer in one forward and backward pass: the largest magnitude and the count of non-finite numbers, each."""

    name: str
    weights: tuple[float, int] = (0.0, 0)
    output: tuple[float, int] = (0.0, 0)
    gradient: tuple[float, int] = (0.0, 0)
    """Of the loss with respect to the output."""


@dataclass
class PassStatistics:
    """A forward and a backward pass, layer by layer."""

    loss: float = float('nan')
    layers: list[LayerStatistics] = field(default_factory=list)
    """The layers that ran, in the order they did."""

    @property
    def origin(self) -> str:
        """Where the first number that is not finite stands, in the order of computation."""
        for layer in self.layers:
            if layer.weights[1]:
                return f'the weights of {layer.name} ({layer.weights[1]:,} are not finite)'
            if layer.output[1]:
                return f'the output of {layer.name} ({layer.output[1]:,} numbers are not finite, its weights are)'
        if not torch.isfinite(torch.tensor(self.loss)):
            return 'the loss (the outputs of all layers are finite)'
        for layer in reversed(self.layers):
            if layer.gradient[1]:
                return f'the gradient at the output of {layer.name} ({layer.gradient[1]:,} numbers are not finite)'
        return 'a batch before this one (for this one every layer, the loss and all gradients are finite)'

    def table(self) -> str:
        """The layers as text: largest magnitudes, and how many numbers are not finite."""
        width = max([len(layer.name) for layer in self.layers] + [5])
        head = f'{"layer":<{width}}  {"weights":>18}  {"output":>18}  {"gradient":>18}'
        cells = [
            (layer.name, *(_cell(*getattr(layer, key)) for key in ('weights', 'output', 'gradient')))
            for layer in self.layers
        ]
        return '\n'.join([head, *(f'{n:<{width}}  {w:>18}  {o:>18}  {g:>18}' for n, w, o, g in cells)])


def layer_statistics(
    model: nn.Module, loss_of: Callable[[], Tensor], context: Callable[[], AbstractContextManager]
) -> PassStatistics:
    """Run a forward and a backward pass and look at every layer without children.

    Weights, buffers and gradients of the model are as before when this returns or raises.

    Args:
        model: whose layers are looked at.
        loss_of: runs the forward pass and returns the loss, ().
        context: entered around the forward pass, such as autocast.
    """
    statistics = PassStatistics()
    rows: dict[nn.Module, LayerStatistics] = {}

    def after_forward(module: nn.Module, _inputs: tuple, output) -> None:
        if module in rows or not isinstance(output, Tensor):
            return
        row = rows[module] = LayerStatistics(names[module], _magnitude(list(module.parameters(recurse=False))))
        row.output = _magnitude([output])
        statistics.layers.append(row)
        if output.requires_grad:
            output.register_hook(lambda grad: setattr(row, 'gradient', _magnitude([grad])))

    names = {module: name for name, module in model.named_modules() if next(module.children(), None) is None}
    handles = [module.register_forward_hook(after_forward) for module in names]
    try:
        with _unchanged(model):
            with context():
                loss = loss_of()
            statistics.loss = float(loss.detach())
            if loss.requires_grad:
                loss.backward()
    finally:
        for handle in handles:
            handle.remove()
    return statistics


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    grads = {param: param.grad for param in model.parameters()}
    try:
        for param in grads:
            param.grad = None
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        for param, grad in grads.items():
            param.grad = grad


def _magnitude(tensors: list[Tensor]) -> tuple[float, int]:
    largest, bad = 0.0, 0
    for tensor in tensors:
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        finite = torch.isfinite(tensor.detach())
        largest = max(largest, float(tensor.detach().abs().masked_fill(~finite, 0).max()))
        bad += tensor.numel() - int(finite.sum())
    return largest, bad


def _cell(largest: float, bad: int) -> str:
    return f'{largest:.3g}' + (f' ({bad:,} bad)' if bad else '')
