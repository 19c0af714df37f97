"""A smaller ordinary network with the logits of a pruned one."""

import copy
from numbers import Real

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..checks import check_ints
from ..contracts import special_layers
from ..latent import merge_latents_
from ..models import network_of
from ..pruners import drop_masks_
from .channels import find_cuts
from .cut import cut_

SIZE = 224  # pixels of an image, where nothing tells; most networks take any size


def plain_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model's network, on the CPU, for evaluation, without masks, latents, special backward passes.

    Layers with a special backward pass keep their class, and are set to be exact.
    """
    network = copy.deepcopy(network_of(model)).cpu().eval()
    merge_latents_(network)
    network.requires_grad_(False).to(memory_format=torch.contiguous_format)
    drop_masks_(network)
    for _, layer in special_layers(network):
        layer.exact = True
    return network


@torch.no_grad()
def narrow(
    model: nn.Module, input_shape: tuple[int, ...] | None = None, tolerance: float = 1e-5, multiple: int = 4
) -> nn.Module:
    """Return a copy of a network, as of :func:`plain_copy`, without the channels that its logits do not need.

    Its layers are smaller layers of the same names, BatchNorm included, and it takes images of every size that the
    network takes. :mod:`pab.narrowing.channels` says which channels go. Before it is returned, its logits for two
    random images are compared with the network's.

    Args:
        model: an ImageClassifier or a bare network, images (N, C, H, W) -> logits; stays as it is.
        input_shape: (C, H, W) of images that lead through the whole network; None takes the ``input_shape`` of an
            ImageClassifier, else the channels of the first convolution, and 224 x 224 or the ``image_size`` of the
            network.
        tolerance: largest difference of a logit, as a share of the largest |logit|.
        multiple: a layer that gets smaller keeps a multiple of so many channels, a few of them without need. The fast
            kernels of onnxruntime 1.32 take multiples of 4 (docs/performance.md). 1 keeps only what is needed.

    Raises:
        ValueError: multiple is no int above 0, or tolerance no number of 0 or more; the network has no values;
            torch.export cannot follow it, its forward pass does not take smaller layers, or a logit differs.

    Example:
        >>> small = pab.narrow(network)
        >>> torch.onnx.export(small, ...)
    """
    check_ints('narrow', multiple=multiple)
    if not (isinstance(tolerance, Real) and tolerance >= 0):
        raise ValueError(f'narrow: tolerance must be 0 or more, got {tolerance!r}')
    if any(param.is_meta for param in network_of(model).parameters()):
        raise ValueError('narrow: the network is on the meta device, without values; load its weights before')
    network = plain_copy(model)
    shape = tuple(input_shape or getattr(model, 'input_shape', None) or _guessed(network))
    cuts = find_cuts(network, shape, multiple=multiple)
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    images = images.to(next(network.parameters(), images).dtype)
    expected = network(images)
    cut_(network, cuts)
    try:
        difference = float((network(images) - expected).abs().max())
    except Exception as error:  # whatever a forward pass does that counts on the number of channels
        raise ValueError(
            f'narrow: the forward pass of {type(network).__name__} takes no smaller layers: {error}'
        ) from error
    largest = float(expected.abs().max())
    if not difference <= tolerance * largest:
        raise ValueError(
            f'narrow: the logits of the smaller {type(network).__name__} differ by {difference:.2g}, tolerance is '
            f'{tolerance:g} of {largest:.2g}. Either sums in another order round so much in {images.dtype}: then it '
            'works on the network in a wider type, float() or double(), or with a larger tolerance. Or the forward '
            'pass does something that its graph does not show: then export the network as it is'
        )
    return network


def _guessed(network: nn.Module) -> tuple[int, int, int]:
    first = next((layer for layer in network.modules() if isinstance(layer, _ConvNd)), None)
    if first is None:
        raise ValueError(f'narrow: {type(network).__name__} has no convolution; give input_shape')
    size = getattr(network, 'image_size', SIZE)
    return first.in_channels, size, size
