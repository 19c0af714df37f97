"""Check and convert what the caller of a pruning hands in for the score; None stays None."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Batches = list[tuple[Tensor, Tensor]]


def as_batches(batches, device: torch.device, owner: str) -> Batches | None:
    """Move pairs of tensors to the device, images in float64; TypeError for others, ValueError for none."""
    if batches is None:
        return None
    if isinstance(batches, Tensor | Mapping):
        raise TypeError(f'{owner}: batches must be a list of (images, labels), got a {type(batches).__name__}')
    batches = list(batches)  # an iterator too: every round reads them again
    if not batches:
        raise ValueError(f'{owner}: batches is empty; give at least one (images, labels)')
    for batch in batches:
        if not (isinstance(batch, Sequence) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
            raise TypeError(
                f'{owner}: batches must hold pairs of tensors (images, labels), got a {type(batch).__name__}'
            )
    return [(images.to(device, torch.float64), labels.to(device)) for images, labels in batches]


def weigh_batches(batches: Batches) -> list[float]:
    """The weight of each batch in a sum over batches: its images in those of an average batch; 1 for equal batches."""
    sizes = [len(images) for images, _ in batches]
    return [size * len(sizes) / sum(sizes) for size in sizes]


def as_input_shape(
    shape: Sequence[int] | None, batches: Batches | None, model: nn.Module, owner: str
) -> tuple[int, ...] | None:
    """The shape of an image as given (a ValueError if it is none), else of the batches, else the model's, else None."""
    if shape is None:
        shape = batches[0][0].shape[1:] if batches else getattr(model, 'input_shape', None)
    if shape is None:
        return None
    if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f'{owner}: input_shape must be the (C, H, W) of one image, got {shape!r}')
    return tuple(shape)


def check_flips(flips: Mapping[str, Tensor], weights: Mapping[str, Tensor], owner: str) -> None:
    """Verify that there is a count of the right shape for every weight, else ValueError."""
    for name, weight in weights.items():
        if name not in flips:
            raise ValueError(f'{owner}: flips has no entry for {name!r}; it holds {", ".join(flips) or "nothing"}')
        if flips[name].shape != weight.shape:
            raise ValueError(
                f'{owner}: flips of {name!r} have shape {tuple(flips[name].shape)}, its weight {tuple(weight.shape)}'
            )
