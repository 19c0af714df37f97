"""Networks of other libraries by their names: torchvision's and timm's."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torchvision import models

from ..checks import check_ints, known_choice
from ..registry import MODELS

WITHOUT_AUXILIARY = {'aux_logits': False, 'init_weights': False}  # one output, and no drawing that takes a minute
TORCHVISION_ARGUMENTS = {'googlenet': WITHOUT_AUXILIARY, 'inception_v3': WITHOUT_AUXILIARY}
SET_ELSEWHERE = ('weights', 'weights_backbone', 'pretrained', 'checkpoint_path', 'progress')


@MODELS.register_module()
def TorchvisionModel(
    name: str, num_classes: int = 1000, in_channels: int = 3, arguments: Mapping[str, Any] | None = None
) -> nn.Module:
    """A classifier of the installed torchvision, not pretrained.

    Images (N, in_channels, H, W) -> logits (N, num_classes). GoogLeNet and Inception come without auxiliary outputs.

    Args:
        name: one of ``torchvision.models.list_models(torchvision.models)``, such as 'resnet18' or 'vit_b_16'.
        num_classes: >= 1.
        in_channels: of the images, >= 1; the first convolution is made for them.
        arguments: further ones of torchvision's own function, such as ``dict(image_size=64)`` of a ViT.

    Raises:
        ValueError: no such name (the message has those most like it), or arguments that the network does not take.
    """
    known_choice('TorchvisionModel', 'name', name, models.list_models(models))
    settings = {**TORCHVISION_ARGUMENTS.get(name, {}), **(arguments or {})}
    network = _build('TorchvisionModel', models.get_model, name, num_classes, in_channels, settings)
    return network if in_channels == 3 else _with_channels(network, in_channels)


@MODELS.register_module()
def TimmModel(
    name: str, num_classes: int = 1000, in_channels: int = 3, arguments: Mapping[str, Any] | None = None
) -> nn.Module:
    """A network of timm, not pretrained (``pip install timm``); arguments and errors as of ``TorchvisionModel``.

    ``name`` is one of ``timm.list_models()``, ``arguments`` are those of ``timm.create_model``. Raises an ImportError
    where timm is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError('TimmModel: timm is not installed; pip install timm') from error
    known_choice('TimmModel', 'name', name, timm.list_models())
    settings = {'in_chans': in_channels, **(arguments or {})}
    return _build('TimmModel', timm.create_model, name, num_classes, in_channels, settings)


def _build(
    owner: str, make: Callable, name: str, num_classes: int, in_channels: int, arguments: dict[str, Any]
) -> nn.Module:
    check_ints(owner, num_classes=num_classes, in_channels=in_channels)
    if wrong := [key for key in SET_ELSEWHERE if key in arguments]:
        raise ValueError(f'{owner}: arguments cannot have {wrong[0]!r}; ImageClassifier has weights=, for any network')
    try:
        return make(name, num_classes=num_classes, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f'{owner}: {name} cannot be built with arguments={arguments!r}: {error}') from error


def _with_channels(network: nn.Module, in_channels: int) -> nn.Module:
    """Replace the first convolution by one for images of so many channels."""
    name, old = next((name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    geometry = old.kernel_size, old.stride, old.padding, old.dilation, old.groups
    network.set_submodule(name, nn.Conv2d(in_channels, old.out_channels, *geometry, bias=old.bias is not None))
    return network
