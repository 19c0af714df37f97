"""Layers with 2:4 weights on torch's semi-structured kernels, for inference on a GPU."""

from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.sparse import to_sparse_semi_structured

from ..costs.structure import form_obstacle

CAPABILITY = (8, 0)
HOW = "a pruner with scope='2:4', density=0.5 and prunable=['Conv2d', 'Linear'] makes 2:4 weights"


class SparseLinear(nn.Linear):
    """A linear layer (..., in) -> (..., out) that multiplies by ``compressed``, a sparse copy of its weight.

    It computes in the copy's precision and returns that of its input.
    """

    compressed: Tensor

    def forward(self, input: Tensor) -> Tensor:
        return _product(self, input)


class SparseConv1x1(nn.Conv2d):
    """A 1x1 convolution like :class:`SparseLinear`: (N, C, H, W) or (C, H, W), strided by slicing."""

    compressed: Tensor

    def forward(self, input: Tensor) -> Tensor:
        pixels = input[..., :: self.stride[0], :: self.stride[1]].movedim(-3, -1)
        return _product(self, pixels).movedim(-1, -3)


def _product(layer: SparseLinear | SparseConv1x1, input: Tensor) -> Tensor:
    precision = layer.compressed.dtype
    rows = input.reshape(-1, input.shape[-1]).to(precision).contiguous()
    bias = None if layer.bias is None else layer.bias.to(precision)
    output = F.linear(rows, layer.compressed, bias)
    return output.to(input.dtype).reshape(*input.shape[:-1], output.shape[-1])


def missing_support() -> str | None:
    """Say in one line why this machine has no 2:4 kernels; None if it has."""
    if not torch.cuda.is_available():
        return '2:4 kernels need a CUDA GPU, and torch sees none here'
    if (found := torch.cuda.get_device_capability()) < CAPABILITY:
        have, need = ('.'.join(map(str, version)) for version in (found, CAPABILITY))
        return f'2:4 kernels need a GPU of CUDA capability {need} or newer, and this one has {have}'
    return None


def use_sparse_kernels_(
    network: nn.Module,
    precision: torch.dtype = torch.bfloat16,
    compress: Callable[[Tensor], Tensor] = to_sparse_semi_structured,
) -> dict[str, str]:
    """Let linear layers and 1x1 convolutions with 2:4 weights multiply by a compressed copy of them.

    The class of a layer changes in place; its parameters and masks stay. For inference only: a later change of the
    weight does not reach the copy, and no gradient reaches the weight.

    Args:
        network: in evaluation, on the GPU. Layers with a special backward pass (:mod:`pab.contracts`) count as the
            torch layers they derive from; other subclasses stay dense.
        precision: bfloat16 or float16, of these products.
        compress: contiguous weight (out, in) of ``precision`` -> a weight for ``F.linear``; a RuntimeError says why it
            cannot be compressed, such as torch's for a shape that is no multiple of the kernel's tile.

    Returns:
        Name of every layer with a weight of two or more dimensions -> '' if it runs sparse, else why it stays dense.

    Raises:
        ValueError: no layer runs sparse; nothing has changed then.
    """
    reasons = {}
    for name, layer in network.named_modules():
        weight = getattr(layer, 'weight', None)
        if isinstance(weight, Tensor) and weight.dim() >= 2:
            reasons[name] = _obstacle(layer) or _compress_(layer, precision, compress)
    if all(reasons.values()):
        most = Counter(reasons.values()).most_common(4)
        found = '; '.join(f'{reason} ({count} of {len(reasons)})' for reason, count in most) or 'none has weights'
        raise ValueError(f'no layer of {type(network).__name__} can run on 2:4 kernels: {found}; {HOW}')
    return reasons


def describe(reasons: Mapping[str, str]) -> str:
    """Write the result of :func:`use_sparse_kernels_` as text, one line a layer."""
    width = max(map(len, reasons))
    lines = [f'{name:<{width}}  {f"dense: {reason}" if reason else "sparse"}' for name, reason in reasons.items()]
    count = sum(not reason for reason in reasons.values())
    return '\n'.join([f'{count} of {len(reasons)} layers run on 2:4 kernels', *lines])


@torch.no_grad()  # in which a special backward pass does not matter
def _obstacle(layer: nn.Module) -> str:
    special = getattr(type(layer), 'special_backward', False) and getattr(layer, 'is_ordinary', True)
    if type(layer) not in (nn.Linear, nn.Conv2d) and not special:
        return f'{type(layer).__name__} is not an ordinary Linear or Conv2d'
    if obstacle := form_obstacle(layer):
        return obstacle
    if layer.weight.unflatten(1, (-1, 4)).count_nonzero(2).max() > 2:
        return 'its weight is not 2:4'
    return ''


def _compress_(layer: nn.Linear | nn.Conv2d, precision: torch.dtype, compress: Callable[[Tensor], Tensor]) -> str:
    try:
        compressed = compress(layer.weight.detach().flatten(1).to(precision).contiguous())
    except RuntimeError as error:
        return str(error).splitlines()[0]
    layer.__class__ = SparseLinear if isinstance(layer, nn.Linear) else SparseConv1x1
    layer.compressed = compressed
    return ''
