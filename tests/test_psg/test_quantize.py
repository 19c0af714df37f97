import numpy as np
import pytest
import torch

from pab.psg import quantize as q


def tensor(*values, **kwargs):
    return torch.tensor(values, **kwargs)


def ranged(x, signed):
    """The range of a gradient or a weight of one channel."""
    scale = q.tensor_scale(x)
    return (-scale if signed else 0 * scale), scale


def test_unsigned_by_hand():
    # s = 4, delta = 1: 0.5 and 2.5 are halves (to even), 4 is clamped to 3, a negative entry to 0
    x = tensor(-1.0, 0.0, 0.5, 1.5, 2.5, 2.6, 4.0)
    assert q.quantize(x, 2, tensor(0.0), tensor(4.0)).tolist() == [0, 0, 0, 2, 2, 3, 3]


def test_signed_by_hand():
    # s = 4, lo = -4, delta = 2: indices 0..3 stand for -4, -2, 0, 2; so +4 becomes 2
    x = tensor(-4.0, -3.0, -2.0, -0.9, 0.0, 0.9, 1.1, 4.0)
    assert q.quantize(x, 2, tensor(-4.0), tensor(4.0)).tolist() == [-4, -4, -2, 0, 0, 0, 2, 2]
    # one bit: delta = s, so what remains is "negative or not"
    assert q.quantize(x, 1, tensor(-4.0), tensor(4.0)).tolist() == [-4, -4, -4, 0, 0, 0, 0, 0]


def test_scales_by_hand():
    x = tensor([[1.0, -2.0], [0.0, 0.5]], [[4.0, 0.0], [0.0, -3.0]])
    assert q.tensor_scale(x).item() == 4
    assert q.channel_scale(x).tolist() == [[[2.0]], [[4.0]]]
    assert q.tensor_scale(x[:0]).item() == 0


@pytest.mark.parametrize(
    ('x', 'signed', 'want'),
    [
        ([[1.0, -2.0], [4.0, 0.5]], None, (-3, 3)),  # the samples' max|x| are 2 and 4; one entry is negative
        ([[1.0, 2.0], [4.0, 0.0]], None, (0, 3)),
        ([[1.0, -0.0], [4.0, 0.0]], None, (0, 2.5)),  # -0 is not negative
        ([[-1.0, -2.0], [-4.0, -1.0]], None, (-3, 3)),
        ([[1.0, 2.0], [4.0, -1e-30]], None, (-3, 3)),
        ([[0.0], [0.0]], None, (0, 0)),
        ([[1.0, -2.0], [4.0, 0.5]], False, (0, 3)),
        ([[1.0, 2.0], [4.0, 0.5]], True, (-3, 3)),
    ],
)
def test_range_of_an_input_by_hand(x, signed, want):
    assert tuple(t.item() for t in q.input_range(tensor(*x), signed)) == want


@pytest.mark.parametrize('signed', [True, False, None])
@pytest.mark.parametrize('shape', [(0, 3), (0, 3, 4, 4), (2, 0)])
def test_an_empty_batch_has_an_empty_range(shape, signed):
    assert [t.item() for t in q.input_range(torch.zeros(shape), signed)] == [0, 0]


@pytest.mark.parametrize('bad', [torch.nan, torch.inf, -torch.inf])
def test_the_range_of_what_is_not_finite(bad):
    low, scale = q.input_range(tensor([1.0, -2.0], [bad, 1.0]))
    assert not scale.isfinite()
    assert not (scale - low).isfinite()  # what the product of codes is multiplied by


@pytest.mark.parametrize('signed', [False, True])
@pytest.mark.parametrize('bits', [1, 2, 4, 7, 8, 9, 12, 15, 16])
def test_code_is_the_quantizer(bits, signed):
    x = torch.randn(6, 50) if signed else torch.randn(6, 50).relu()
    low, scale = q.input_range(x)
    assert (low < 0) == signed
    codes = q.encode(x, low, scale, bits)
    assert codes.dtype == (torch.uint8 if bits <= 8 else torch.int16)
    value = q.decode(codes, low, bits, torch.float32) * (scale - low)
    torch.testing.assert_close(value, q.quantize(x, bits, low, scale), rtol=0, atol=float(scale) * 2e-7)
    assert (value == 0)[x == 0].all()
    if bits <= 8:
        for dtype in (torch.bfloat16, torch.float16):
            assert torch.equal(q.decode(codes, low, bits, dtype).double(), q.decode(codes, low, bits, torch.float64))


@pytest.mark.parametrize('low', [-1.0, 0.0])
def test_every_code_of_a_byte_is_exact_in_bfloat16(low):
    steps = torch.arange(256)
    got = q.decode(steps.to(torch.uint8), tensor(low)[0], 8, torch.bfloat16)
    assert (got.double() * 256).tolist() == (steps - (128 if low else 0)).tolist()


@pytest.mark.parametrize('signed', [False, True])
@pytest.mark.parametrize('bits', [3, 8, 16])
def test_against_numpy(bits, signed):
    x = np.random.default_rng(0).normal(size=(5, 40))
    scale = np.abs(x).max(axis=1).mean()
    low = -scale if signed else 0.0
    delta = (scale - low) / 2**bits
    want = np.rint(np.clip((x - low) / delta, 0, 2**bits - 1)) * delta + low
    got = q.quantize(torch.from_numpy(x), bits, *q.input_range(torch.from_numpy(x), signed))
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_narrow_types_are_quantized_in_float32(dtype):
    x = torch.randn(3, 20).to(dtype)
    got = q.quantize(x, 8, *q.input_range(x))
    assert got.dtype == dtype
    assert torch.equal(got, q.quantize(x.float(), 8, *q.input_range(x.float())).to(dtype))


@pytest.mark.parametrize('signed', [False, True])
def test_zero_scale_returns_the_tensor(signed):
    x = torch.zeros(2, 3)
    low, scale = ranged(x, signed)
    assert torch.equal(q.quantize(x, 8, low, scale), x)
    assert not (q.decode(q.encode(x, low, scale, 8), low, 8, x.dtype) * (scale - low)).any()
    assert q.quantize(x, 32, low, scale) is x  # as any tensor


def test_no_nan_of_a_pruned_filter_or_of_the_smallest_numbers():
    w = torch.randn(3, 2, 3, 3)
    w[1] = 0
    got = q.quantize(w, 8, -q.channel_scale(w), q.channel_scale(w))
    assert got.isfinite().all()
    assert [bool(row.any()) for row in got[:2]] == [True, False]
    x = tensor(0.0, 1e-45, -1e-45)  # delta underflows to 0
    assert q.quantize(x, 16, *ranged(x, True)).isfinite().all()


def test_what_is_not_finite_stays_visible():
    x = tensor(1.0, torch.inf, -torch.inf)
    assert torch.equal(q.quantize(x, 8, *ranged(x, True)), x)
    x = tensor(1.0, torch.nan, 2.0)
    got = q.quantize(x, 8, *ranged(x, True))
    assert got.isnan().tolist() == [False, True, False]


def test_sparse_gradient_by_hand():
    grad, exact = tensor(-4.0, 2.0, 1.0, -0.5, 0.0), tensor(10.0, 20.0, 30.0, 40.0, 50.0)
    # relative: the bound is 0.5 * 4 = 2, and an entry on the bound is kept
    assert q.sparse_gradient(grad, 0.5, True, False).tolist() == [-4, 2, 0, 0, 0]
    assert q.sparse_gradient(grad, 0.5, False, False).tolist() == [-4, 2, 1, -0.5, 0]
    assert q.sparse_gradient(grad, 0.5, True, False, exact).tolist() == [-4, 2, 30, 40, 50]
    assert q.sparse_gradient(grad, 0.5, True, True).tolist() == [-1, 1, 0, 0, 0]
    assert q.sparse_gradient(grad, 0.0, True, False) is grad


@pytest.mark.parametrize('take_sign', [False, True])
def test_sparse_gradient_hides_no_overflow(take_sign):
    grad = tensor(torch.nan, torch.inf, 1.0)
    for relative in (False, True):
        got = q.sparse_gradient(grad, 0.1, relative, take_sign)
        assert got[0].isnan()
        assert not got[:2].isfinite().any()
