"""Weight gradients in bfloat16: of layers that compute in it, and of float32 layers whose codes it holds."""

import pytest
import torch
from torch import nn
from torch.nn.grad import conv2d_weight

from pab.psg import ByteMaskReLU, PSGConfig, PSGConv2d, autograd, quantize as q

IMAGES = torch.rand(5, 3, 9, 7, generator=torch.Generator().manual_seed(3))
GRAD = torch.randn(5, 4, 9, 7, generator=torch.Generator().manual_seed(4))


def layer(**settings):
    torch.manual_seed(0)
    return PSGConv2d(3, 4, 3, padding=1, bias=False, psg=PSGConfig(**{'threshold': 0.0, **settings}))


def weight_gradient(conv, x, grad, dtype=None):
    conv.zero_grad()
    with torch.autocast('cpu', dtype=dtype, enabled=dtype is not None):
        conv(x).backward(grad)
    return conv.weight.grad


def near(got, want, bits):
    assert ((got - want).abs() <= 2.0**-bits * want.abs() + 1e-6).all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('signed', [True, False])
@pytest.mark.parametrize('input_bits', [3, 8, 12])
def test_an_input_of_two_bytes_is_quantised_and_its_gradient_is_a_number_of_16_bits(dtype, signed, input_bits):
    x, grad = (IMAGES - 0.5 if signed else IMAGES).to(dtype), GRAD.to(dtype)
    got = weight_gradient(layer(input_bits=input_bits), x, grad, dtype)
    code = q.quantize(x.float(), input_bits, *q.input_range(x))
    code = code if input_bits <= 8 else code.to(dtype).float()  # the wider ones are rounded
    want, other = (conv2d_weight(value, got.shape, grad.float(), padding=1) for value in (code, x.float()))
    assert (got - want).norm() < 4e-3 * want.norm()
    assert input_bits > 3 or (got - other).norm() > 5e-2 * other.norm()  # the product with the input as it is


def test_a_gradient_of_two_bytes_is_quantised_where_fewer_bits_are_asked_for():
    x, grad = IMAGES.bfloat16(), GRAD.bfloat16()
    got = weight_gradient(layer(grad_bits=3), x, grad, torch.bfloat16)
    scale = q.tensor_scale(grad)
    quantized = q.quantize(grad.float(), 3, -scale, scale)
    code = q.quantize(x.float(), 8, *q.input_range(x))
    want, other = (conv2d_weight(code, got.shape, value, padding=1) for value in (quantized, grad.float()))
    assert (got - want).norm() < 4e-3 * want.norm()
    assert (got - other).norm() > 5e-2 * other.norm()


@pytest.mark.parametrize('input_bits', [8, 12])
def test_the_activation_between_two_layers_is_kept_once(input_bits):
    """ReLU and the layer behind it keep one tensor of two bytes, as the ordinary layers do."""
    net = nn.Sequential(layer(), ByteMaskReLU(), PSGConv2d(4, 4, 3, psg=PSGConfig(input_bits=input_bits)))
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.dtype, tensor.shape
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast('cpu', dtype=torch.bfloat16):
        net(IMAGES)
    assert sorted(shape for dtype, shape in kept.values() if dtype == torch.bfloat16) == [(5, 3, 9, 7), (5, 4, 9, 7)]
    assert not any(dtype in (torch.uint8, torch.int16) for dtype, _ in kept.values())


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('signed', [True, False])
def test_codes_are_multiplied_in_bfloat16_and_the_sum_is_rounded_once(monkeypatch, signed, channels_last):
    x = IMAGES - 0.5 if signed else IMAGES
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    results = {}
    for fast in (True, False):
        monkeypatch.setattr(autograd, 'fast_bfloat16', lambda device, fast=fast: fast)
        results[fast] = weight_gradient(layer(grad_bits=8, bfloat16_product=True), x, GRAD)
    want = weight_gradient(layer(grad_bits=8), x, GRAD)
    assert torch.equal(results[False], want)
    near(results[True], want, 8)
    assert not torch.equal(results[True], want)


def test_sums_that_bfloat16_holds_are_exact(monkeypatch):
    monkeypatch.setattr(autograd, 'fast_bfloat16', lambda device: True)
    # codes of 3 bits: 0 .. 7 of the input, -4 .. 3 of the gradient; of one position there is one product a weight
    conv = nn.Conv2d(2, 3, 1, bias=False)
    conv.__class__ = PSGConv2d
    conv.psg = PSGConfig(input_bits=3, grad_bits=3, threshold=0.0, bfloat16_product=True)
    x, grad = torch.tensor([2.0, 0.6]).view(1, 2, 1, 1), torch.tensor([4.0, -1.2, 0.4]).view(1, 3, 1, 1)
    conv(x).backward(grad)
    # Q(2; 3) of [0, 2] is 7/8 of 2, Q(0.6) is 2/8 of 2; Q(4; 3) of [-4, 4] is 3, Q(-1.2) is -1, Q(0.4) is 0
    want = torch.tensor([[1.75 * 3, 0.5 * 3], [-1.75, -0.5], [0, 0]])
    assert torch.equal(conv.weight.grad.view(3, 2), want)


def test_zeros_and_overflows_stay_visible(monkeypatch):
    monkeypatch.setattr(autograd, 'fast_bfloat16', lambda device: True)
    conv = layer(grad_bits=8, bfloat16_product=True)
    assert not weight_gradient(conv, IMAGES, GRAD * 0).any()
    assert not weight_gradient(conv, IMAGES * 0, GRAD).any()
    for bad in (torch.inf, torch.nan):
        grad = GRAD.clone()
        grad[0, 0, 0, 0] = bad
        assert not weight_gradient(conv, IMAGES, grad).isfinite().all()


@pytest.mark.parametrize('settings', [dict(input_bits=9), dict(grad_bits=16), dict(sparsify=False)])
def test_products_of_wider_codes_are_refused(settings):
    with pytest.raises(ValueError, match=r'bfloat16_product needs input_bits and grad_bits of at most 8'):
        PSGConfig(**{'grad_bits': 8, 'bfloat16_product': True, **settings})


def test_other_types_are_left_alone(monkeypatch):
    monkeypatch.setattr(autograd, 'fast_bfloat16', lambda device: True)
    conv = layer(grad_bits=8, bfloat16_product=True).double()
    got = weight_gradient(conv, IMAGES.double(), GRAD.double())
    want = weight_gradient(layer(grad_bits=8).double(), IMAGES.double(), GRAD.double())
    assert torch.equal(got, want)
