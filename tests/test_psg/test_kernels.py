"""Compiled passes give the numbers of the plain ones, bit for bit; without a compiler there is a warning, no crash."""

import itertools
import warnings

import pytest
import torch
from torch import nn

from pab import compiled as machinery
from pab.compiled import is_compiled
from pab.psg import ByteMaskReLU, PSGConfig, PSGConv2d, convert_psg_, exact_gradients, kernels, quantize as q


@pytest.fixture(autouse=True)
def _may_compile(monkeypatch):
    monkeypatch.setenv('PAB_COMPILE', '1')
    monkeypatch.setattr(machinery, '_failed', False)


@pytest.fixture
def compiled(monkeypatch):
    """Compile every pass, however small; skip where there is no compiler."""
    monkeypatch.setattr(kernels, 'SMALLEST_COMPILED', 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        kernels.positive(torch.ones(2))
    if not is_compiled():
        pytest.skip(f'no compiler: {caught[-1].message}')
    yield


def images(shape, channels_last):
    x = torch.randn(shape)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def same(got, want):
    if isinstance(got, tuple):
        return all(same(a, b) for a, b in zip(got, want, strict=True))
    return torch.equal(got, want) and got.stride() == want.stride() and got.dtype == want.dtype


def moved(*_):
    raise ImportError('cannot import name')


@pytest.fixture(params=['direct', pytest.param('torch.compile', marks=pytest.mark.slow)])
def either_call(request, monkeypatch):
    """Both ways to call a compiled loop, the second as for a torch that has moved what the first needs."""
    machinery.compile_pass.cache_clear()
    if request.param == 'torch.compile':
        monkeypatch.setattr(machinery, '_call_directly', moved)
    yield
    machinery.compile_pass.cache_clear()


def test_compiled_equals_plain(either_call, compiled, monkeypatch):
    for shape, channels_last in itertools.product(((2, 3, 5, 7), (3, 16, 8, 8)), (False, True)):
        x = images(shape, channels_last)
        byte, low, factor = (x.abs() * 40).to(torch.uint8), torch.tensor(-1.0), torch.tensor(0.3)
        for function, *arguments in [
            (kernels.encode_input, x, *q.input_range(x), 8),
            (kernels.encode_input, x.relu(), *q.input_range(x.relu()), 8),
            (kernels.encode_input, x, *q.input_range(x), 16),
            (kernels.decode_input, byte, low, 8, torch.float32),
            (kernels.decode_input, byte, 0 * low, 8, torch.float32),
            (kernels.decode_input, (x * 4000).to(torch.int16), low, 16, torch.float32),
            (kernels.quantize_gradient, x, 16),
            (kernels.quantize_gradient, x * 0, 16),
            (kernels.weight_gradient, x, factor, 0.1, True, False),
            (kernels.weight_gradient, x, factor, 0.1, False, True),
            (kernels.relu_with_mask, x),
            (kernels.positive, x),
            (kernels.pass_where, x, (x > 0.5).to(torch.uint8)),
        ]:
            monkeypatch.setenv('PAB_COMPILE', '1')
            got = function(*arguments)
            assert is_compiled()
            monkeypatch.setenv('PAB_COMPILE', '0')
            assert same(got, function(*arguments))


def test_one_loop_for_all_sizes(compiled):
    kernels.relu_with_mask(torch.randn(5))
    before = machinery.compile_pass.cache_info().misses
    for shape in ((1,), (2, 3, 5, 7), (1 << 17,), (131, 1009)):
        x = torch.randn(shape)
        y, passes = kernels.relu_with_mask(x)
        assert torch.equal(y, x.relu()) and torch.equal(passes, (x > 0).to(torch.uint8))
    y, _ = kernels.relu_with_mask(x[1:, None])  # begins in the middle of a storage
    assert torch.equal(y, x[1:, None].relu())
    assert machinery.compile_pass.cache_info().misses == before
    torch.set_num_threads((threads := torch.get_num_threads()) + 1)  # for a loop has its number of threads built in
    kernels.relu_with_mask(x)
    torch.set_num_threads(threads)
    assert machinery.compile_pass.cache_info().misses == before + 1


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_range_in_one_read(compiled, dtype):
    cases = [
        torch.tensor([[0.5, 1.0], [2.0, -0.0]]),  # -0 is no negative entry
        torch.tensor([[0.5, -3.0], [2.0, 1.0]]),
        torch.tensor([[torch.inf, -3.0], [2.0, 1.0]]),
        torch.tensor([[torch.nan, 3.0], [2.0, 1.0]]),
        images((3, 5, 7, 9), True),
        images((3, 5, 7, 9), False)[:, :, ::2].relu(),
    ]
    for x in cases:
        x = x.to(dtype)
        for signed in (None, True, False):
            got, want = kernels.input_range(x, signed), q.input_range(x, signed)
            torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
    assert is_compiled()


def test_a_gradient_in_another_layout(compiled):
    passes = (images((2, 3, 5, 7), True) > 0).to(torch.uint8)
    for grad in (images((2, 3, 5, 7), False), torch.randn(2, 3, 1, 1).expand(2, 3, 5, 7)):
        assert torch.equal(kernels.pass_where(grad, passes), grad * passes)
        scale = grad.abs().max()
        assert torch.equal(kernels.quantize_gradient(grad, 16), q.quantize(grad, 16, -scale, scale))


@pytest.mark.parametrize(
    'tensor', [torch.ones(1).expand(1 << 31), torch.Tensor._make_subclass(nn.Buffer, torch.ones(3))]
)
def test_what_a_loop_cannot_take_runs_uncompiled(tensor, monkeypatch):
    monkeypatch.setattr(machinery, 'compile_pass', lambda *args: pytest.fail('compiled'))
    assert machinery.run_compiled(torch.relu, [tensor]) is None


def test_step_of_a_layer(compiled, monkeypatch):
    layer = PSGConv2d(3, 4, 3, psg=PSGConfig(input_signed=True))
    x = images((2, 3, 9, 9), True)
    grads = []
    for wanted in '10':
        monkeypatch.setenv('PAB_COMPILE', wanted)
        layer.zero_grad()
        layer(x).square().sum().backward()
        grads.append(layer.weight.grad)
    assert torch.equal(*grads)


def test_without_a_compiler(monkeypatch):
    def fail(*args):
        raise RuntimeError('no C++ compiler\nand a long story')

    monkeypatch.setattr(kernels, 'SMALLEST_COMPILED', 0)
    monkeypatch.setattr(machinery, 'compile_pass', fail)
    x = torch.randn(2, 3, 4, 4)
    with pytest.warns(UserWarning, match=r'run uncompiled.*RuntimeError: no C\+\+ compiler\. Install .*PAB_COMPILE=0'):
        got = kernels.quantize_gradient(x, 8)
    assert not is_compiled()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert torch.equal(kernels.quantize_gradient(x, 8), got)


def test_small_tensors_are_not_worth_a_compilation(monkeypatch):
    monkeypatch.setattr(machinery, 'compile_pass', lambda *args: pytest.fail('compiled'))
    kernels.quantize_gradient(torch.randn(2, 3, 4, 4), 8)


def test_the_switch(monkeypatch):
    monkeypatch.setenv('PAB_COMPILE', '0')
    assert not is_compiled()
    monkeypatch.setenv('PAB_COMPILE', 'yes')
    with pytest.raises(ValueError, match="PAB_COMPILE must be 0 or 1, got 'yes'"):
        is_compiled()


@pytest.mark.parametrize('inplace', [False, True])
def test_byte_mask_relu(inplace):
    x = torch.tensor([-1.0, -0.0, 0.0, 2.0, torch.nan, torch.inf])
    grads = []
    for cls in (nn.ReLU, ByteMaskReLU):
        leaf = x.clone().requires_grad_()
        y = cls(inplace)(leaf * 1)
        (grad,) = torch.autograd.grad(y, leaf, torch.arange(1.0, 7.0))
        grads.append((y.detach(), grad))
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


def test_byte_mask_relu_keeps_bytes_and_differentiates_twice():
    relu, kept = ByteMaskReLU(), []
    x = torch.randn(4, 5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = relu(x)
    assert [t.dtype for t in kept] == [torch.uint8]
    assert torch.autograd.gradcheck(relu, (torch.randn(4, 5, dtype=torch.float64) + 3).requires_grad_())
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    grad.sum().backward()
    assert torch.equal(x.grad, 2.0 * (x > 0))


def test_conversion_of_relus():
    def net():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.ReLU6())

    model = convert_psg_(net())
    assert [type(m) for m in model] == [PSGConv2d, ByteMaskReLU, nn.ReLU6]
    with exact_gradients(model):
        assert model[1].exact
    assert not model[1].exact
    assert type(convert_psg_(net(), byte_mask_relu=False)[1]) is nn.ReLU
