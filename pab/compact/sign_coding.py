"""Sign-trained weights in a bit each: what of them the seed does not give.

The seed gives their magnitudes, and the file the signs of the kept ones. Two kinds of runs differ. Where
only the use of each weight was learned (edge-popup), all signs are those drawn, and the file needs none. And a tensor
may have one magnitude for all its weights that is not the seed's (biprop), which the file then holds as a number.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .container import CompactError

MAGNITUDE = np.int32(0x7FFFFFFF)  # the bits of a float32 without its sign
INFINITE = np.int32(0x7F800000)  # of the least magnitude that is no number

Masks = Mapping[str, np.ndarray]
State = Mapping[str, Tensor]


def pattern(value: Tensor) -> np.ndarray:
    """The bits of a float32 tensor as whole numbers, in the same memory."""
    return value.detach().numpy().view(np.int32)


def encode(
    names: Sequence[str], state: State, initial: State, masks: Masks, source: str
) -> tuple[np.ndarray, bool, dict[str, Tensor]]:
    """Find what a file must hold of sign-trained tensors.

    Args:
        names: of float32 tensors in ``state``, as they are now, and ``initial``, as they were drawn.
        masks: name -> bool array, True where kept, of masked ones only.
        source: what drew ``initial``, for messages.

    Returns:
        The signs, a bit for each kept weight, packed; whether all signs are those drawn, and then there are no bits;
        name -> the magnitude, float32 (1,), of each tensor that has one of its own.

    Raises:
        CompactError: a tensor has several magnitudes, and some of them are not those drawn.
    """
    signs, drawn, constants = [np.zeros(0, bool)], [np.zeros(0, bool)], {}
    for name in names:
        own, seeds = (pattern(values[name])[masks.get(name, ...)].reshape(-1) for values in (state, initial))
        if wrong := np.count_nonzero((own ^ seeds) & MAGNITUDE):
            magnitudes = own & MAGNITUDE
            if (magnitudes != magnitudes[0]).any() or not 0 < magnitudes[0] < INFINITE:
                raise CompactError(
                    f'save: of {own.size} weights left in {name}, {wrong} do not have the magnitude that {source} gave '
                    'them, and a compact file stores no other. They were trained by something else than sign flips, '
                    'averaged, loaded from elsewhere or drawn from another seed: give that seed, or keep the checkpoint'
                )
            constants[name] = torch.from_numpy(magnitudes[:1].view(np.float32))
        signs.append(own < 0)
        drawn.append(seeds < 0)
    bits = np.concatenate(signs)
    as_drawn = np.array_equal(bits, np.concatenate(drawn))
    return np.packbits(bits[:0] if as_drawn else bits), as_drawn, constants


def decode_(
    names: Sequence[str],
    state: State,
    masks: Masks,
    packed: Tensor | None,
    drawn: bool,
    constants: Mapping[str, Tensor],
) -> None:
    """Give freshly drawn tensors, in place, what :func:`encode` found of them; entries that masks remove stay.

    Raises:
        CompactError: the content of a file does not fit.
    """
    kept = [masks[name] if name in masks else np.ones(state[name].shape, bool) for name in names]
    counts = [0 if drawn else np.count_nonzero(mask) for mask in kept]
    if packed is None or packed.dtype != torch.uint8 or packed.shape != ((sum(counts) + 7) // 8,):
        raise CompactError(f'it does not have the {sum(counts)} signs that its masks leave')
    for name, value in constants.items():
        if not 0 < value.item() < float('inf'):
            raise CompactError(f'the magnitude of {name!r} should be a positive number, got {value.item()}')
    bits, start = np.unpackbits(packed.numpy(), count=sum(counts)).astype(np.int32) << 31, 0
    for name, mask, count in zip(names, kept, counts, strict=True):
        own = pattern(state[name])[mask]
        signs = own & ~MAGNITUDE if drawn else bits[start : start + count]
        magnitudes = pattern(constants[name]) if name in constants else own & MAGNITUDE
        pattern(state[name])[mask] = magnitudes | signs
        start += count


def hash_drawn(state: State, recipe: Mapping[str, Any]) -> str:
    """The sha256 of what the seed gives of sign-trained tensors: float32, without signs unless these are kept too."""
    digest = hashlib.sha256()
    for name in recipe['signs']:
        bits = pattern(state[name])
        digest.update((bits if recipe['drawn'] else bits & MAGNITUDE).astype('<i4', copy=False))
    return digest.hexdigest()


def hash_mask_bits(masks: Iterable[np.ndarray]) -> str:
    """The sha256 of masks, each packed to bytes."""
    digest = hashlib.sha256()
    for mask in masks:
        digest.update(np.packbits(mask))
    return digest.hexdigest()
