"""Linear layers and 1x1 convolutions with 2:4 weights on sparse kernels, beside dense ones."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured

from ..contrib.sparse import missing_support, use_sparse_kernels_
from ..pruners import Mag, apply_masks_
from .timing import Row, Settings, alternate, row

DENSE = 'dense bfloat16'
SHAPES = (64, 256, 56), (256, 64, 56), (512, 128, 28), (256, 1024, 14), (1024, 256, 14), (512, 2048, 7), (2048, 512, 7)
"""inputs, outputs and height of 1x1 convolutions in ResNet-50, for images of 224 x 224"""


def measure(settings: Settings) -> list[Row]:
    """1x1 convolutions of ResNet-50 and a large linear layer; on a machine that has no such kernels one line."""
    lacking = '2:4 kernels need a CUDA GPU (--device cuda)' if settings.device == 'cpu' else missing_support()
    if lacking:
        print(f'sparse is not measured: {lacking}', flush=True)
        return []
    return [r for case, layer, shape in _cases(settings) for r in _compare(case, layer, shape, settings)]


def _cases(settings: Settings) -> list[tuple[str, nn.Module, tuple[int, ...]]]:
    """Name, layer and shape of its input."""
    if settings.tiny:
        return [('1x1 tiny', nn.Conv2d(64, 64, 1), (2, 64, 4, 4)), ('Linear tiny', nn.Linear(64, 64), (16, 64))]
    cases = [
        (f'1x1, {i} to {o}, {size} x {size}, batch 128', nn.Conv2d(i, o, 1, bias=False), (128, i, size, size))
        for i, o, size in SHAPES
    ]
    return [*cases, ('Linear, 8192 to 8192, batch 8192', nn.Linear(8192, 8192), (8192, 8192))]


@torch.inference_mode()
def _compare(
    case: str,
    layer: nn.Module,
    shape: tuple[int, ...],
    settings: Settings,
    compress: Callable[[Tensor], Tensor] = to_sparse_semi_structured,
) -> list[Row]:
    network = nn.Sequential(layer).to(settings.device)
    apply_masks_(network, Mag(0.5, scope='2:4', prunable=['name:*']).prune(network))
    network = network.to(torch.bfloat16, memory_format=torch.channels_last).eval()
    sparse = copy.deepcopy(network)
    use_sparse_kernels_(sparse, torch.bfloat16, compress)
    x = torch.randn(shape, device=settings.device, dtype=torch.bfloat16)
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(sparse(x), network(x), rtol=0.05, atol=0.05)
    runs = {'2:4 bfloat16': lambda: sparse(x), DENSE: lambda: network(x)}
    seconds = alternate(runs, settings.for_small_ratios())
    return [row('sparse', case, name, seconds, peer=None if name == DENSE else DENSE) for name in runs]
