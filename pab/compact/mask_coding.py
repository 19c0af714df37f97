r"""Masks in few bits: a model of how likely each weight was kept, and an entropy coder that believes it.

A weight at output channel o, input channel i and kernel position k of a layer has the context

.. math:: c = \mathrm{clip}(L(|w|) + a_o + b_i + s_k + 256,\ 0,\ 511)

L is the logarithm of the initial magnitude, which the seed gives; a, b and s are whole numbers that the file stores
for each channel and position; and a table in the file says how likely a weight of context c was kept. Most pruners keep
what is large compared with a threshold that depends on the channels, so c tells nearly all of their masks. For other
masks L is left out, and a, b and s say how dense the channels are.

The decoder computes with whole numbers only, so it does the same on every machine. What the table leaves open is coded
by the range coder of ``constriction``.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from constriction import stream

PER_OCTAVE = 64  # steps of L
CONTEXTS = 512
PRUNED, KEPT = 0, 65535  # entries of the table for contexts without exception; any other is a probability x 65536
SAMPLE = 2048  # about as many weights of a channel decide its number

# L by the upper 16 bits of a float32, which are its exponent and seven bits of the mantissa. No logarithm of a mantissa
# is close to half a step, so its last bits, in which machines differ, do not matter.
_MANTISSA = np.rint(PER_OCTAVE * np.log2(1 + (2 * np.arange(128) + 1) / 256))
_LEVELS = (PER_OCTAVE * np.arange(256)[:, None] + _MANTISSA).astype(np.int32).reshape(-1)


def cube_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """(outputs, inputs, kernel positions) of a weight of shape (outputs, inputs, *kernel)."""
    return shape[0] if shape else 1, shape[1] if len(shape) > 1 else 1, math.prod(shape[2:])


def encode(masks: Sequence[np.ndarray], magnitudes: Sequence[np.ndarray]) -> tuple[dict[str, np.ndarray], bool]:
    """Code masks, bool cubes, by the model that takes fewer bits, with or without magnitudes, float32 cubes.

    Returns:
        Arrays by name, and whether magnitudes are used, as :func:`decode` needs them.
    """
    bits, tried = np.concatenate([np.zeros(0, bool), *(mask.reshape(-1) for mask in masks)]), []
    for use_magnitudes in (True, False):
        levels = [_levels(magnitude, use_magnitudes) for magnitude in magnitudes]
        fit = _fit_thresholds if use_magnitudes else _fit_densities
        numbers = [fit(level, mask) for level, mask in zip(levels, masks, strict=True)]
        contexts = _contexts(levels, numbers)
        table, cost = _table(contexts, bits)
        tried.append((cost, numbers, contexts, table, use_magnitudes))
        if cost < 0.2 * bits.size:
            break  # densities alone would not do better
    _, numbers, contexts, table, use_magnitudes = min(tried, key=lambda model: model[0])
    order, counts = _open(contexts, table)
    numbers = np.concatenate([np.zeros(0, np.int16), *numbers])
    return {'numbers': numbers, 'table': table, 'bits': _pack(bits[order], counts, table)}, use_magnitudes


def decode(
    arrays: Mapping[str, np.ndarray], use_magnitudes: bool, magnitudes: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Return the masks that :func:`encode` was given with these magnitudes.

    Arrays of another origin give other masks or any Exception.
    """
    shapes = [magnitude.shape for magnitude in magnitudes]
    numbers = np.split(arrays['numbers'].astype(np.int16), np.cumsum([sum(shape) for shape in shapes])[:-1])
    contexts = _contexts([_levels(magnitude, use_magnitudes) for magnitude in magnitudes], numbers)
    table = arrays['table'].astype(np.uint16)
    order, counts = _open(contexts, table)
    bits = (table == KEPT)[contexts]
    bits[order] = _unpack(arrays['bits'].tobytes(), counts, table)
    masks = np.split(bits, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
    return [mask.reshape(shape) for mask, shape in zip(masks, shapes, strict=False)]


def _levels(magnitude: np.ndarray, use: bool) -> np.ndarray:
    """L, or 0 where it is not used."""
    return _LEVELS.take(magnitude.view(np.int32) >> 16) if use else np.zeros(magnitude.shape, np.int32)


def _spread(numbers: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The sum of a channel's and a position's numbers at each weight."""
    a, b, s = np.split(numbers.astype(np.int32), np.cumsum(shape)[:-1])
    return a[:, None, None] + b[None, :, None] + s[None, None, :]


def _contexts(levels: Sequence[np.ndarray], numbers: Sequence[np.ndarray]) -> np.ndarray:
    parts = [np.zeros(0, np.int16)]
    for level, own in zip(levels, numbers, strict=False):
        context = level + _spread(own, level.shape) + CONTEXTS // 2
        parts.append(context.clip(0, CONTEXTS - 1).astype(np.int16).reshape(-1))
    return np.concatenate(parts)


def _open(contexts: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the weights that the table leaves open, ordered by context; how many there are of each context."""
    positions = np.flatnonzero(((table != PRUNED) & (table != KEPT))[contexts])
    chosen = contexts[positions]
    return positions[np.argsort(chosen, kind='stable')], np.bincount(chosen, minlength=CONTEXTS)


def _fit_thresholds(level: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Numbers by which as many weights of each channel and position come to lie above 0 as the mask keeps of them."""
    parts = [np.zeros(size, np.int32) for size in mask.shape]
    for axis in (2, 1, 0) * 2:
        parts[axis][:] = 0
        rows = _rows(level + _spread(np.concatenate(parts), mask.shape), axis)
        kept = _rows(mask, axis).sum(1)
        rows = np.sort(np.pad(rows, ((0, 0), (1, 1)), 'edge'), axis=1)
        rows[:, 0], rows[:, -1] = rows[:, 0] - PER_OCTAVE, rows[:, -1] + PER_OCTAVE
        last_pruned = (rows.shape[1] - 2 - kept)[:, None]
        gap = np.take_along_axis(rows, np.concatenate([last_pruned, last_pruned + 1], 1), 1)
        parts[axis] = -((gap.sum(1) + 1) // 2)
        if axis:  # only the outputs' numbers know where the threshold is
            parts[axis] -= int(np.median(parts[axis]))
    return np.concatenate(parts).clip(-32768, 32767).astype(np.int16)


def _fit_densities(level: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The log odds that a weight of each channel and position was kept, in sixteenths of a bit."""
    parts, all_odds = [], _log_odds(mask.sum(), mask.size)
    for axis, size in enumerate(mask.shape):
        kept = np.moveaxis(mask, axis, 0).reshape(size, -1).sum(1)
        parts.append(_log_odds(kept, mask.size // size) - (all_odds if axis else 0))
    return np.rint(16 * np.concatenate(parts)).astype(np.int16)


def _rows(cube: np.ndarray, axis: int) -> np.ndarray:
    """(length of the axis, about SAMPLE): for each channel or position its weights, or some of them."""
    rows = np.moveaxis(cube, axis, 0).reshape(cube.shape[axis], -1)
    return rows[:, :: rows.shape[1] // SAMPLE | 1]


def _log_odds(kept: np.ndarray, total: int) -> np.ndarray:
    return np.log2((kept + 0.5) / (total - kept + 0.5))


def _table(contexts: np.ndarray, bits: np.ndarray) -> tuple[np.ndarray, float]:
    """The table for these contexts, and how many bits coding by it takes."""
    parts = [np.array_split(array, 1 + bits.size // (1 << 18)) for array in (contexts, bits)]  # that fit in the cache
    counts = sum(np.bincount(2 * c + b, minlength=2 * CONTEXTS) for c, b in zip(*parts, strict=True))
    pruned, kept = counts.reshape(-1, 2).T
    total = pruned + kept
    table = np.rint(65536 * kept / np.maximum(total, 1)).clip(PRUNED + 1, KEPT - 1)
    cost = -(kept * np.log2(table / 65536) + pruned * np.log2(1 - table / 65536))
    sure = (kept == 0) | (pruned == 0)
    return np.where(sure, np.where(kept > 0, KEPT, PRUNED), table).astype(np.uint16), float(cost[~sure].sum())


def _models(counts: np.ndarray, table: np.ndarray) -> Iterator[tuple]:
    """(how many weights, their distribution) of each open context."""
    for context in np.flatnonzero(counts):
        # a multiple of 2^-16 is rounded nowhere on the way to the coder's whole numbers of 24 bits
        yield int(counts[context]), stream.model.Bernoulli(int(table[context]) / 65536, perfect=False)


def _pack(bits: np.ndarray, counts: np.ndarray, table: np.ndarray) -> np.ndarray:
    encoder, parts = stream.queue.RangeEncoder(), np.split(bits, np.cumsum(counts[counts > 0]))
    for part, (_, model) in zip(parts, _models(counts, table), strict=False):
        encoder.encode(part.astype(np.int32), model)
    return encoder.get_compressed().astype('<u4').view(np.uint8)


def _unpack(coded: bytes, counts: np.ndarray, table: np.ndarray) -> np.ndarray:
    decoder = stream.queue.RangeDecoder(np.frombuffer(coded, '<u4').astype(np.uint32))
    return np.concatenate([np.zeros(0), *(decoder.decode(model, count) for count, model in _models(counts, table))])
