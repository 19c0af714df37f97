"""Numbers of every layer in one step, to see where it stopped being finite."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

PARTS = ('weights', 'output', 'output gradient', 'weight gradient')


class PassStatistics(NamedTuple):
    """A forward and a backward pass, layer by layer."""

    loss: float
    layers: dict[str, dict[str, tuple[float, int]]]
    """Name -> part, of PARTS -> largest finite magnitude, count of numbers that are not finite. The layers stand in the
    order in which they ran; those that did not run come last."""

    @property
    def origin(self) -> str:
        """Where the first number that is not finite stands, in the order of computation; '' when all are finite."""
        places = [(f'the weights of {name}', row['weights']) for name, row in self.layers.items()]
        places += [(f'the output of {name}', row['output']) for name, row in self.layers.items()]
        places.append(('the loss', (0.0, int(not math.isfinite(self.loss)))))
        following = 'the loss'
        for name, row in reversed(self.layers.items()):
            places.append((f'the gradient between {following} and the output of {name}', row['output gradient']))
            places.append((f'the gradient of the weights of {name}', row['weight gradient']))
            following = name
        return next((f'{place} ({bad:,} not finite)' for place, (_, bad) in places if bad), '')

    def table(self) -> str:
        """The layers as text: largest magnitudes, and how many numbers are not finite."""
        rows = [('layer', *PARTS)]
        for name, row in self.layers.items():
            rows.append((name, *(f'{most:.3g}' + (f' ({bad:,} bad)' if bad else '') for most, bad in row.values())))
        width = max(len(name) for name, *_ in rows)
        return '\n'.join(f'{name:<{width}}' + ''.join(f'  {cell:>18}' for cell in cells) for name, *cells in rows)


def layer_statistics(model: nn.Module, loss_of: Callable[[], Tensor]) -> PassStatistics:
    """Run a forward and a backward pass and look at every layer that has weights of its own or no layers inside.

    Weights and their ``grad`` stay as they are; running statistics move as in any forward pass in training mode.

    Args:
        model: whose layers are looked at.
        loss_of: runs the forward pass and returns the loss, ().
    """
    names = {m: name for name, m in model.named_modules() if m._parameters or next(m.children(), None) is None}
    rows: dict[str, dict[str, tuple[float, int]]] = {}

    def row_of(module: nn.Module) -> dict[str, tuple[float, int]]:
        own = module.parameters(recurse=False)
        return rows.setdefault(names[module], dict.fromkeys(PARTS, (0.0, 0)) | {'weights': _magnitude(own)})

    def after_forward(module: nn.Module, _inputs: tuple, output) -> None:
        if names[module] in rows or not isinstance(output, Tensor):
            return
        row = row_of(module)
        row['output'] = _magnitude([output])
        if output.requires_grad:
            output.register_hook(lambda grad: row.update({'output gradient': _magnitude([grad])}))

    handles = [module.register_forward_hook(after_forward) for module in names]
    try:
        loss = loss_of()
    finally:
        for handle in handles:
            handle.remove()
    params = [param for param in model.parameters() if param.requires_grad]
    grads = dict(zip(params, torch.autograd.grad(loss, params, allow_unused=True), strict=True))
    for module in names:
        row_of(module)['weight gradient'] = _magnitude(map(grads.get, module.parameters(recurse=False)))
    return PassStatistics(float(loss.detach()), rows)


def _magnitude(tensors: Iterable[Tensor | None]) -> tuple[float, int]:
    largest, bad = 0.0, 0
    for tensor in tensors:
        if tensor is not None and tensor.is_floating_point() and tensor.numel():
            finite = torch.isfinite(tensor.detach())
            largest = max(largest, float(tensor.detach().abs().masked_fill(~finite, 0).max()))
            bad += tensor.numel() - int(finite.sum())
    return largest, bad
