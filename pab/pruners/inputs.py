"""Check and convert what the caller of a pruning hands in for the score; None stays None."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Batches = list[tuple[Tensor | dict[str, Tensor], Tensor]]
Loss = Callable[[Any, Tensor], Tensor]
IGNORED = -100  # the label that torch's cross-entropy leaves out by default
DISCRETE = (torch.int32, torch.int64, torch.bool)  # token ids and masks; bytes are pixels


def as_batches(batches, device: torch.device, owner: str) -> Batches | None:
    """Move (inputs, labels) to the device, inputs in float64; TypeError for others, ValueError for none.

    Inputs are a tensor, or a dict of tensors for a model with keyword arguments; those in ``DISCRETE`` keep their type.
    """
    if batches is None:
        return None
    if isinstance(batches, Tensor | Mapping):
        raise TypeError(f'{owner}: batches must be a list of (images, labels), got a {type(batches).__name__}')
    batches = list(batches)  # an iterator too: every round reads them again
    if not batches:
        raise ValueError(f'{owner}: batches is empty; give at least one (images, labels)')
    for batch in batches:
        pair = list(batch) if isinstance(batch, Sequence) else []
        if len(pair) != 2 or not all(isinstance(part, Tensor) for part in [*_tensors(pair[0]), pair[1]]):
            raise TypeError(
                f'{owner}: batches must hold pairs of tensors (images, labels), got a {type(batch).__name__}; in the '
                'place of images may be a dict of tensors'
            )

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device, tensor.dtype if tensor.dtype in DISCRETE else torch.float64)

    return [
        ({k: moved(t) for k, t in inputs.items()} if isinstance(inputs, Mapping) else moved(inputs), labels.to(device))
        for inputs, labels in batches
    ]


def _tensors(inputs: Any) -> list:
    return list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]


def as_loss(loss: Loss | None, owner: str) -> Loss | None:
    """The loss, whose results are checked: a TypeError for no function, and for a result that is no single number."""
    if loss is None:
        return None
    if not callable(loss):
        raise TypeError(f'{owner}: loss must be a function of (outputs, labels), or None, got {loss!r}')

    def checked(outputs: Any, labels: Tensor) -> Tensor:
        try:
            value = loss(outputs, labels)
        except Exception as error:  # whatever a loss does with outputs that it was not written for
            reason = f'{type(error).__name__}: {" ".join(str(error).split())}'
            raise TypeError(
                f'{owner}: loss(outputs, labels) fails for outputs in float64, as the network is scored, and labels '
                f'of shape {tuple(labels.shape)}: {reason}; tensors of its own, such as weights of classes, must be '
                'in float64 too'
            ) from error
        if not (isinstance(value, Tensor) and value.numel() == 1):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f'{owner}: loss(outputs, labels) must return a tensor of one entry, got {got}')
        if torch.is_grad_enabled() and not value.requires_grad:
            raise TypeError(f'{owner}: loss(outputs, labels) must depend on outputs; its result has no gradient')
        return value.reshape(())

    return checked


def weigh_batches(batches: Batches) -> list[tuple[Any, Tensor, float]]:
    """(inputs, labels, weight) of each batch that has a label; the weight is its labels in those of an average batch.

    So it is 1 for equal batches. Integer labels that cross-entropy ignores (``IGNORED``) do not count, others each, as
    images with labels of another type do.

    Raises:
        ValueError: there is no label that counts.
    """
    counts = [_labels_that_count(labels) for _, labels in batches]
    kept = [(*batch, count) for batch, count in zip(batches, counts, strict=True) if count]
    if not kept:
        raise ValueError(f'batches: all labels are {IGNORED}, which the loss ignores; give images with a label')
    return [(inputs, labels, count * len(kept) / sum(counts)) for inputs, labels, count in kept]


def _labels_that_count(labels: Tensor) -> int:
    if labels.is_floating_point() or labels.dtype == torch.bool:
        return len(labels)
    return int((labels != IGNORED).sum())


def as_input_shape(
    shape: Sequence[int] | None, batches: Batches | None, model: nn.Module, owner: str
) -> tuple[int, ...] | None:
    """The shape of an image as given (a ValueError if it is none), else of the batches, else the model's, else None."""
    if shape is None:
        inputs = batches[0][0] if batches else None
        shape = inputs.shape[1:] if isinstance(inputs, Tensor) else getattr(model, 'input_shape', None)
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
