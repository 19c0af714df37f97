"""Masks come back as they went in, in few bits, and by arithmetic that is written down."""

import numpy as np
import pytest

from pab.compact import mask_coding
from pab.compact.mask_coding import CONTEXTS, KEPT, PRUNED, cube_shape, decode, encode


def cubes(*shapes, seed=0, constant=False):
    rng = np.random.RandomState(seed)
    return [np.abs(np.full(s, 0.5) if constant else rng.standard_normal(s)).astype(np.float32) for s in shapes]


def bits_of(arrays) -> int:
    return 8 * sum(array.nbytes for array in arrays.values())


def synflow_like(magnitudes, seed=1, density=0.3):
    """Keep what exceeds a threshold that outputs, inputs and positions shift."""
    rng, masks = np.random.RandomState(seed), []
    for w in magnitudes:
        score = w.astype(np.float64)
        for axis, size in enumerate(w.shape):
            spread = 0.2 if axis == 2 else 1.0  # as measured on ResNet-18
            score = score * np.exp(spread * rng.standard_normal(size)).reshape(
                [-1 if a == axis else 1 for a in range(3)]
            )
        masks.append(score > np.quantile(score, 1 - density))
    return masks


def test_shapes_become_outputs_inputs_and_positions():
    shapes = [(), (5,), (5, 4), (5, 4, 3), (5, 4, 3, 2), (5, 4, 3, 2, 2)]
    assert [cube_shape(s) for s in shapes] == [(1, 1, 1), (5, 1, 1), (5, 4, 1), (5, 4, 3), (5, 4, 6), (5, 4, 12)]


def test_contexts_by_hand():
    # L(1) = 64 x 127 for the exponent of 1, and a doubled magnitude is 64 steps on. The output's number takes 1 to
    # context 256 - 64, so that with the positions' 0, 0, -1 the magnitudes 1, 2, 4 have contexts 192, 256, 319.
    table = np.where(np.arange(CONTEXTS) >= 256, KEPT, PRUNED).astype(np.uint16)
    numbers = np.array([-(64 * 127 + 64), 0, 0, 0, -1], np.int16)
    arrays = {'numbers': numbers, 'table': table, 'bits': np.zeros(0, np.uint8)}
    magnitudes = [np.array([[[1.0, 2.0, 4.0]]], np.float32)]
    assert decode(arrays, True, magnitudes)[0].tolist() == [[[False, True, True]]]
    numbers[4] = -65  # 4 is then at 255
    assert decode(arrays, True, magnitudes)[0].tolist() == [[[False, True, False]]]
    numbers[:] = [0, -1, 0, 0, 1]  # without magnitudes: 255, 255, 256
    assert decode(arrays, False, magnitudes)[0].tolist() == [[[False, False, True]]]


def test_no_logarithm_hangs_on_its_last_bit():
    exact = 64 * np.log2(1 + (2 * np.arange(128) + 1) / 256)
    assert np.abs(exact % 1 - 0.5).min() > 1e-3
    assert mask_coding._LEVELS[[0x3F80, 0x3FC0, 0x3FFF]].tolist() == [8128, 8128 + 38, 8128 + 64]


SHAPES = [(8, 3, 9), (6, 8, 1), (10, 20, 1), (5, 1, 1), (1, 1, 1), (2, 3, 25)]


@pytest.mark.parametrize('density', [0.0, 0.02, 0.3, 0.97, 1.0])
@pytest.mark.parametrize('constant', [False, True])
def test_masks_come_back(density, constant):
    magnitudes = cubes(*SHAPES, constant=constant)
    rng = np.random.RandomState(3)
    for masks in ([rng.random_sample(s) < density for s in SHAPES], [w > 1.5 - density for w in magnitudes]):
        arrays, used = encode(masks, magnitudes)
        back = decode(arrays, used, magnitudes)
        assert all(np.array_equal(a, b) for a, b in zip(masks, back, strict=True))


def test_nothing_to_code():
    arrays, used = encode([], [])
    assert decode(arrays, used, []) == []


def test_a_threshold_that_channels_shift_costs_little():
    magnitudes = cubes((128, 64, 9), (64, 128, 9))
    masks = synflow_like(magnitudes)
    arrays, used = encode(masks, magnitudes)
    weights = sum(mask.size for mask in masks)
    assert used
    assert 8 * arrays['bits'].nbytes < 0.08 * weights  # one density of each tensor alone would take 0.88
    assert bits_of(arrays) < 0.2 * weights  # small tensors: most of it are the channels' numbers


def test_a_mask_without_order_costs_its_entropy():
    magnitudes = cubes((128, 64, 9), (64, 128, 9))
    rng = np.random.RandomState(2)
    masks = [rng.random_sample(w.shape) < 0.3 for w in magnitudes]
    arrays, _ = encode(masks, magnitudes)
    weights = sum(mask.size for mask in masks)
    assert 0.87 * weights < 8 * arrays['bits'].nbytes < 0.89 * weights  # the entropy of 0.3 is 0.8813


def test_channels_that_differ_cost_less_where_magnitudes_say_nothing():
    magnitudes, rng = cubes((128, 64, 9)), np.random.RandomState(2)
    p = 1 / (1 + np.exp(2 * rng.standard_normal((128, 1, 1)) + 2 * rng.standard_normal((1, 64, 1)) + 1))
    masks = [rng.random_sample(magnitudes[0].shape) < p]
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean()
    arrays, used = encode(masks, magnitudes)
    assert not used
    assert 8 * arrays['bits'].nbytes < (entropy + 0.02) * masks[0].size
    one_density = masks[0].mean()
    assert bits_of(arrays) < 0.85 * -(
        one_density * np.log2(one_density) + (1 - one_density) * np.log2(1 - one_density)
    ) * masks[0].size  # fmt: skip


def range_decoded(words, probabilities):
    """The range decoder as docs/files.md describes it, in whole numbers of Python."""
    words, top = iter(words), 1 << 64
    low, width = 0, top - 1
    point = next(words, 0) << 32 | next(words, 0)
    for entry in probabilities:
        zero = (65536 - entry) * ((1 << 24) - 2) // 65536 + 1  # the share of 'pruned' in 2^24
        step = width >> 24
        bit = (point - low) % top // step >= zero
        low = (low + step * zero * bit) % top
        width = step * ((1 << 24) - zero if bit else zero)
        if width < 1 << 32:
            low, width, point = low << 32 & top - 1, width << 32, (point << 32 | next(words, 0)) & top - 1
        yield bit


def test_the_range_coder_is_the_documented_one():
    magnitudes = cubes((32, 16, 9), (16, 32, 1))
    rng = np.random.RandomState(4)
    masks = [m ^ (rng.random_sample(m.shape) < 0.05) for m in synflow_like(magnitudes)]
    arrays, used = encode(masks, magnitudes)
    contexts, start = [], 0
    for w in magnitudes:  # everything again, from the description
        a, b, s = np.split(arrays['numbers'][start : start + sum(w.shape)].astype(int), np.cumsum(w.shape)[:-1])
        start += sum(w.shape)
        pattern = w.view(np.uint32).astype(int)
        level = 64 * (pattern >> 23) + np.floor(64 * np.log2(1 + ((pattern >> 16 & 127) + 0.5) / 128) + 0.5).astype(int)
        contexts.append(np.clip(level * used + a[:, None, None] + b[:, None] + s + 256, 0, 511).ravel())
    contexts, table = np.concatenate(contexts), arrays['table'].astype(int)
    bits = table[contexts] == KEPT
    order = [i for c in range(CONTEXTS) if table[c] not in (PRUNED, KEPT) for i in np.flatnonzero(contexts == c)]
    bits[order] = list(range_decoded(arrays['bits'].view('<u4').tolist(), table[contexts[order]].tolist()))
    assert np.array_equal(bits, np.concatenate([mask.ravel() for mask in masks]))
