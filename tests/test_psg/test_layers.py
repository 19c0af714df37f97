"""The layers against the plain ones and against an independent computation, over shapes, paddings and types."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pab.psg import PSGConfig, PSGConv2d, PSGLinear

IMAGES = torch.randn(3, 4, 9, 8, generator=torch.Generator().manual_seed(0))
EXACT = PSGConfig(input_bits=32, grad_bits=32, threshold=0.0)

SHAPES = {
    'plain': dict(kernel_size=3),
    'strided': dict(kernel_size=3, stride=2, padding=1),
    'uneven': dict(kernel_size=(3, 2), stride=(1, 2), padding=(2, 0), dilation=(1, 2)),
    'grouped': dict(kernel_size=3, padding=1, groups=2),
    'pointwise': dict(kernel_size=1, stride=2),
    'large': dict(kernel_size=7, padding=3, stride=2),
    'valid': dict(kernel_size=3, padding='valid'),
    'same': dict(kernel_size=3, padding='same', dilation=2),
    'same, even kernel': dict(kernel_size=(4, 2), padding='same'),
    'reflect': dict(kernel_size=3, padding=2, padding_mode='reflect'),
    'replicate': dict(kernel_size=3, padding=(1, 2), padding_mode='replicate', stride=2),
    'circular': dict(kernel_size=3, padding='same', padding_mode='circular'),
}


def pair(kind, bias=True, psg=EXACT, input_signed=True, dtype=torch.float32):
    """A plain layer and a PSG layer with the same numbers."""
    plain = nn.Conv2d(4, 6, bias=bias, dtype=dtype, **SHAPES[kind])
    psg = replace(psg, input_signed=input_signed)
    ours = PSGConv2d(4, 6, bias=bias, dtype=dtype, psg=psg, **SHAPES[kind])
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def step(layer, x, seed=1):
    """Output and gradients of one step: (y, grad of x, grad of weight, grad of bias)."""
    layer.zero_grad()
    x = x.detach().requires_grad_()
    y = layer(x)
    torch.manual_seed(seed)
    y.backward(torch.randn(y.shape).to(y))
    return y.detach(), x.grad, layer.weight.grad, None if layer.bias is None else layer.bias.grad


def formats(x):
    return x, x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('sparsify', [True, False])
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('kind', SHAPES)
def test_full_precision_is_the_plain_layer(kind, bias, sparsify):
    psg = PSGConfig(input_bits=32, grad_bits=32, threshold=0.0, sparsify=sparsify)
    plain, ours = pair(kind, bias, psg)
    for x in formats(IMAGES):
        for got, want in zip(step(ours, x), step(plain, x), strict=True):
            assert got is None or torch.equal(got, want)


def by_unfold(layer, x, grad_out):
    """The PSG weight gradient in float64, from patches: no convolution and no code of ours in it."""
    config = layer.psg

    def quantized(t, bits, signed, s):
        low = -s if signed else 0.0
        delta = (s - low) / 2**bits
        return ((t - low) / delta).clamp(0, 2**bits - 1).round() * delta + low

    left, right, top, bottom = layer._reversed_padding_repeated_twice
    mode = 'constant' if layer.padding_mode == 'zeros' else layer.padding_mode
    if layer.padding == 'valid':
        left = right = top = bottom = 0
    s = x.abs().flatten(1).max(1).values.mean()
    x = quantized(x, config.input_bits, layer.psg.input_signed, s)
    g = quantized(grad_out, config.grad_bits, True, grad_out.abs().max())
    x = F.pad(x, (left, right, top, bottom), mode=mode)
    patches = F.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride)
    n, groups = len(x), layer.groups
    patches = patches.view(n, groups, -1, patches.shape[-1])
    g = g.view(n, groups, layer.out_channels // groups, -1)
    return torch.einsum('ngol,ngkl->gok', g, patches).reshape(layer.weight.shape)


@pytest.mark.parametrize('signed', [True, False])
@pytest.mark.parametrize('kind', SHAPES)
def test_weight_gradient_against_patches(kind, signed):
    psg = PSGConfig(input_bits=5, grad_bits=7, threshold=0.0)
    plain, ours = pair(kind, psg=psg, input_signed=signed, dtype=torch.float64)
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    x = x if signed else x.relu()
    torch.manual_seed(1)
    want = by_unfold(ours, x, torch.randn(plain(x).shape).double())
    for inputs in formats(x):
        y, grad_x, grad_w, grad_b = step(ours, inputs)
        torch.testing.assert_close(grad_w, want, rtol=1e-9, atol=1e-9)
        for got, exact in zip((y, grad_x, grad_b), [step(plain, inputs)[i] for i in (0, 1, 3)], strict=True):
            torch.testing.assert_close(got, exact, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(grad_w, step(plain, inputs)[2], rtol=1e-3)


@pytest.mark.parametrize('kind', SHAPES)
def test_output_keeps_the_memory_format(kind):
    plain, ours = pair(kind)
    for x in formats(torch.randn(2, 4, 9, 8)):
        got, want = step(ours, x), step(plain, x)
        assert got[0].stride() == want[0].stride()
        assert got[1].stride() == want[1].stride()


@pytest.mark.parametrize('psg', [PSGConfig(sparsify=False, threshold=0.1), PSGConfig(predictive_forward=True)])
@pytest.mark.parametrize('linear', [False, True])
def test_a_sample_without_a_batch(psg, linear):
    layer, x = (PSGLinear(7, 3, psg=psg), torch.randn(7)) if linear else (pair('strided', psg=psg)[1], IMAGES[0])
    for got, want in zip(step(layer, x), step(layer, x[None]), strict=True):
        assert torch.equal(got.flatten(), want.flatten())


@pytest.mark.parametrize('shape', [(5, 7), (3, 4, 7), (7,)])
def test_linear(shape):
    plain = nn.Linear(7, 3)
    ours = PSGLinear(7, 3, psg=replace(EXACT, input_signed=True))
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(shape)
    for got, want in zip(step(ours, x), step(plain, x), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize('shape', [(5, 7), (5, 4, 7), (5, 2, 3, 7)])
def test_a_linear_layer_is_a_convolution_of_one_pixel(shape):
    linear = PSGLinear(7, 3, psg=PSGConfig(input_bits=4, grad_bits=6, threshold=0.02, input_signed=True))
    conv = PSGConv2d(7, 3, 1, psg=linear.psg)
    conv.weight.data, conv.bias.data = linear.weight.data[..., None, None].clone(), linear.bias.data.clone()
    x, upstream = torch.randn(shape), torch.randn(*shape[:-1], 3)
    linear(x).backward(upstream)
    conv(x.reshape(5, -1, 7).mT[..., None]).backward(upstream.reshape(5, -1, 3).mT[..., None])
    assert torch.allclose(linear.weight.grad, conv.weight.grad[..., 0, 0], atol=1e-5)


def test_predictive_forward_gates_the_output_only():
    psg = PSGConfig(input_bits=4, weight_bits=4, predictive_forward=True)
    plain, ours = pair('strided', psg=psg)
    got, want = step(ours, IMAGES), step(plain, IMAGES)
    gated = got[0] != want[0]
    assert 0.2 < gated.float().mean() < 0.8
    assert not got[0][gated].any()
    assert torch.equal(got[1], want[1])


def test_predictive_forward_gates_an_evaluation_too():
    _, ours = pair('strided', psg=PSGConfig(input_bits=4, weight_bits=4, predictive_forward=True))
    with torch.no_grad():
        evaluated = ours(IMAGES)
    assert torch.equal(evaluated, ours(IMAGES))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('psg', [PSGConfig(), EXACT, PSGConfig(sparsify=False), PSGConfig(input_bits=20)])
@pytest.mark.parametrize('linear', [False, True])
class TestAutocast:
    def layers(self, psg, linear):
        if linear:
            psg = replace(psg, input_signed=True)
            plain, ours, x = nn.Linear(6, 4), PSGLinear(6, 4, psg=psg), torch.randn(9, 6)
            ours.load_state_dict(plain.state_dict())
            return plain, ours, x
        return *pair('strided', psg=psg), torch.randn(3, 4, 9, 8).contiguous(memory_format=torch.channels_last)

    def test_the_output_is_that_of_the_plain_layer(self, dtype, psg, linear):
        plain, ours, x = self.layers(psg, linear)
        with torch.autocast('cpu', dtype=dtype):
            y, want = ours(x), plain(x)
        assert y.dtype == dtype
        assert torch.equal(y, want)

    def test_gradients_are_float32_and_near_those_without(self, dtype, psg, linear):
        _, ours, x = self.layers(psg, linear)
        want32 = step(ours, x)
        ours.zero_grad()
        inputs = x.detach().requires_grad_()
        with torch.autocast('cpu', dtype=dtype):
            y = ours(inputs)
        torch.manual_seed(1)
        y.backward(torch.randn(y.shape).to(y))  # outside of autocast, as torch advises
        assert inputs.grad.dtype == ours.weight.grad.dtype == ours.bias.grad.dtype == torch.float32
        for got, want in zip((inputs.grad, ours.weight.grad, ours.bias.grad), want32[1:], strict=True):
            assert (got - want).norm() < 0.02 * want.norm()


def test_autocast_leaves_doubles_alone():
    plain, ours = pair('strided', dtype=torch.float64)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert ours(IMAGES.double()).dtype == plain(IMAGES.double()).dtype == torch.float64


def test_half_precision_network():
    _, ours = pair('strided', psg=PSGConfig())
    ours = ours.to(torch.bfloat16)
    _, grad_x, grad_w, grad_b = step(ours, torch.randn(3, 4, 9, 8).bfloat16())
    assert grad_x.dtype == grad_w.dtype == grad_b.dtype == torch.bfloat16


@pytest.mark.parametrize('wanted', list(itertools.product([False, True], repeat=3)))
def test_only_wanted_gradients_are_computed(wanted):
    _, ours = pair('strided', psg=PSGConfig())
    x = torch.randn(3, 4, 9, 8)
    full = step(ours, x)
    ours.zero_grad()
    x.requires_grad_(wanted[0])
    ours.weight.requires_grad_(wanted[1])
    ours.bias.requires_grad_(wanted[2])
    y = ours(x)
    assert y.requires_grad == any(wanted)
    if any(wanted):
        torch.manual_seed(1)
        y.backward(torch.randn(y.shape))
    for flag, got, want in zip(wanted, (x.grad, ours.weight.grad, ours.bias.grad), full[1:], strict=True):
        assert torch.allclose(got, want, atol=1e-5) if flag else got is None


@pytest.mark.parametrize('psg', [PSGConfig(), PSGConfig(sparsify=False), PSGConfig(predictive_forward=True)])
def test_zeros_make_no_nan(psg):
    _, ours = pair('strided', psg=psg, input_signed=False)
    ours.weight.data[1] = 0  # a fully pruned filter
    x = torch.zeros(2, 4, 9, 8, requires_grad=True)
    y = ours(x)
    y.backward(torch.zeros_like(y))
    for t in (y, x.grad, ours.weight.grad):
        assert t.isfinite().all()
    assert not ours.weight.grad.any()


@pytest.mark.parametrize('psg', [PSGConfig(), PSGConfig(sparsify=False), PSGConfig(take_sign=True)])
@pytest.mark.parametrize('bad', [torch.inf, torch.nan])
@pytest.mark.parametrize('where', ['input', 'output gradient'])
def test_overflow_reaches_the_weight_gradient(psg, bad, where):
    _, ours = pair('strided', psg=psg, input_signed=False)
    x = torch.rand(2, 4, 9, 8)
    if where == 'input':
        x[0, 0, 4, 4] = bad
    y = ours(x)
    upstream = torch.ones_like(y)
    if where == 'output gradient':
        upstream[0, 0, 0, 0] = bad
    y.backward(upstream)
    assert not ours.weight.grad.isfinite().all()


@pytest.mark.parametrize('linear', [False, True])
@pytest.mark.parametrize('psg', [PSGConfig(), PSGConfig(sparsify=False), PSGConfig(predictive_forward=True), EXACT])
def test_an_empty_batch_has_the_gradients_of_the_plain_layer(psg, linear):
    plain, ours = (nn.Linear(4, 6), PSGLinear(4, 6, psg=psg)) if linear else pair('strided', psg=psg, input_signed=None)
    x = torch.zeros(0, 4) if linear else torch.zeros(0, 4, 9, 8)
    for got, want in zip(step(ours, x), step(plain, x), strict=True):
        assert torch.equal(got, want)
    assert not ours.weight.grad.any()


@pytest.mark.parametrize('psg', [PSGConfig(), PSGConfig(sparsify=False, threshold=0.1), PSGConfig(input_bits=12)])
@pytest.mark.parametrize('linear', [False, True])
def test_the_data_decide_whether_the_input_is_signed(psg, linear):
    settings = dict(psg=psg) if linear else dict(psg=psg, kernel_size=3)
    by_data = (PSGLinear if linear else PSGConv2d)(4, 6, **settings)
    assert by_data.psg.input_signed is None
    fixed = copy.deepcopy(by_data)
    images = torch.randn(3, 4) if linear else torch.randn(3, 4, 9, 8)
    for x, signed in ((images, True), (-images.abs(), True), (images.relu(), False), (0 * images, False)):
        fixed.psg = replace(psg, input_signed=signed)
        want = step(fixed, x)[2]
        assert torch.equal(step(by_data, x)[2], want)
        fixed.psg = replace(psg, input_signed=not signed)
        assert torch.equal(step(fixed, x)[2], want) == (not x.any())


def test_padding_may_change_after_construction():
    plain, ours = pair('strided')
    for layer in (plain, ours):
        layer.dilation, layer.padding = (2, 2), (2, 2)
    for got, want in zip(step(ours, IMAGES), step(plain, IMAGES), strict=True):
        assert torch.equal(got, want)


def test_second_backward_pass_is_refused():
    _, ours = pair('strided', psg=PSGConfig())
    x = torch.randn(2, 4, 9, 8, requires_grad=True)
    grad = torch.autograd.grad(ours(x).square().sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize('psg', [{}, dict(input_bits=20), dict(grad_bits=8, bfloat16_product=True)])
def test_compiled_network_equals_eager(psg):
    psg = PSGConfig(**psg)
    torch._dynamo.reset()
    conv = PSGConv2d(3, 8, 3, padding=1, psg=replace(psg, input_signed=True))
    net = nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU(), PSGConv2d(8, 8, 3, stride=2, psg=psg))
    x = torch.randn(4, 3, 8, 8)
    net(x).square().mean().backward()
    want = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    torch.compile(net, backend='aot_eager', fullgraph=True)(x).square().mean().backward()
    for got, expected in zip(net.parameters(), want, strict=True):
        torch.testing.assert_close(got.grad, expected, rtol=1e-4, atol=1e-5)
