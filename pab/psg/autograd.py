"""The two passes of a PSG layer: plain in the forward pass and the input gradient, quantised in the weight gradient."""

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from . import kernels, quantize as q
from .config import PSGConfig


class Geometry(NamedTuple):
    """Where a convolution reads: each pair is (height, width)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


class Settings(NamedTuple):
    """What a PSG layer hands to its passes; ``geometry`` is None for a linear layer."""

    config: PSGConfig
    input_signed: bool
    geometry: Geometry | None = None


def psg_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings) -> Tensor:
    """Convolve (N, C_in, H, W) with (C_out, C_in / groups, kH, kW) -> (N, C_out, H', W'), PSG in the backward pass.

    Runs three convolutions a step (four unless ``sparsify``, one more with ``predictive_forward``). What is kept for
    the backward pass is the input's code, of one byte an entry up to 8 bits; the float input is kept where the exact
    gradient is wanted or the code would be wider than 16 bits. Autocast works as with ``F.conv2d``, but the weight
    gradient reaches a float32 weight without a detour over the narrow type. The bias has its exact gradient.
    Differentiable once; a second backward pass raises RuntimeError.
    """
    return _PSGProduct.apply(x, weight, bias, settings)


def psg_linear(x: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings) -> Tensor:
    """Multiply (N, ..., in) by (out, in) -> (N, ..., out), PSG in the backward pass, as :func:`psg_conv2d`."""
    return _PSGProduct.apply(x, weight, bias, settings)


class _PSGProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings) -> Tensor:
        config, signed, geometry = settings
        dtype = _compute_dtype(x, weight)
        weight_dtype, bias_dtype, input_dtype = weight.dtype, None if bias is None else bias.dtype, x.dtype
        x = x.to(dtype)
        cast_bias = None if bias is None else bias.to(dtype)
        with _without_autocast(x.device.type):
            y = _product(x, weight.to(dtype), cast_bias, geometry)
            if config.predictive_forward:
                y = _predict(y, x, weight.to(dtype), cast_bias, settings)
            saved, scale = None, None
            if ctx.needs_input_grad[1]:
                if _keeps_code(config):
                    saved, scale = kernels.encode_input(x, config.input_bits, signed)
                else:
                    saved = x
        ctx.settings = settings
        ctx.shape, ctx.dtype = x.shape, dtype
        ctx.format = _memory_format(x)
        ctx.dtypes = input_dtype, weight_dtype, bias_dtype
        ctx.save_for_backward(weight, saved, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        weight, saved, scale = ctx.saved_tensors
        settings = ctx.settings
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        input_dtype, weight_dtype, bias_dtype = ctx.dtypes
        grad_x = grad_w = grad_b = None
        with _without_autocast(grad.device.type):
            grad = grad.to(ctx.dtype)
            if need_w:
                grad_w, grad_b, saved = _weight_gradient(grad, saved, scale, weight, settings, need_b)
                grad_w = grad_w.to(weight_dtype)
            if need_x:
                if saved is None:  # only its shape and layout are read
                    saved = torch.empty(ctx.shape, dtype=ctx.dtype, device=grad.device, memory_format=ctx.format)
                grad_x = _input_gradient(grad, saved, weight.to(ctx.dtype), settings.geometry).to(input_dtype)
            if need_b:
                grad_b = (_bias_gradient(grad, settings.geometry) if grad_b is None else grad_b).to(bias_dtype)
        return grad_x, grad_w, grad_b, None


def _weight_gradient(
    grad: Tensor, saved: Tensor, scale: Tensor | None, weight: Tensor, settings: Settings, need_b: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The PSG weight gradient, the bias gradient if the same kernel makes it, and the input or what stands for it."""
    config, signed, geometry = settings
    quantized_input, factor = saved, None
    if scale is not None:
        quantized_input = kernels.decode_input(saved, config.input_bits, signed, grad.dtype)
        factor = q.decode_factor(scale, signed)
    elif config.input_bits < q.FULL_PRECISION_BITS:
        quantized_input = q.quantize(saved, config.input_bits, signed, q.input_scale(saved))
    exact_grad = config.grad_bits >= q.FULL_PRECISION_BITS
    quantized_grad = grad if exact_grad else kernels.quantize_gradient(grad, config.grad_bits)
    need_b = need_b and exact_grad  # the plain layer's kernel makes both at once; stay bit for bit with it
    product, grad_b = _weight_product(quantized_grad, quantized_input, weight, geometry, need_b)
    exact = None
    if not config.sparsify:
        exact = product if exact_grad and quantized_input is saved else None
        if exact is None:
            exact = _weight_product(grad, saved, weight, geometry, False)[0]
        exact = exact.to(q.working_dtype(grad.dtype))
    if factor is not None:
        product = product.to(factor.dtype) * factor
    product = q.sparse_gradient(product, config.threshold, config.relative, config.take_sign, exact)
    return product, grad_b, quantized_input


def _keeps_code(config: PSGConfig) -> bool:
    return config.sparsify and q.code_dtype(config.input_bits, True) is not None


def _compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    device = x.device.type
    if torch.is_autocast_enabled(device) and torch.float64 not in (x.dtype, weight.dtype):
        return torch.get_autocast_dtype(device)
    return x.dtype


def _without_autocast(device: str):
    # entering torch.autocast costs as much as a small kernel
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _memory_format(x: Tensor) -> torch.memory_format:
    # torch's own choice in F.conv2d: strides that fit both formats count as contiguous
    channels_last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry | None) -> Tensor:
    if geometry is None:
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, *geometry)


def _predict(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings) -> Tensor:
    config, signed, geometry = settings
    x = q.quantize(x, config.input_bits, signed, q.input_scale(x))
    weight = q.quantize(weight, config.weight_bits, True, q.channel_scale(weight))
    return torch.where(_product(x, weight, bias, geometry) < 0, 0, y)


def _weight_product(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry | None, need_b: bool
) -> tuple[Tensor, Tensor | None]:
    if geometry is None:
        grad = grad.flatten(0, -2) if grad.dim() > 1 else grad[None]
        x = x.flatten(0, -2) if x.dim() > 1 else x[None]
        return grad.t() @ x, None
    # the weight's values are not read, only its shape and layout, so its type need not be the gradient's
    weight = weight if weight.dtype == grad.dtype else torch.empty_like(weight, dtype=grad.dtype)
    return _convolution_backward(grad, x, weight, geometry, [False, True, need_b])[1:]


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry | None) -> Tensor:
    if geometry is None:
        return grad @ weight
    return _convolution_backward(grad, x, weight, geometry, [True, False, False])[0]


def _bias_gradient(grad: Tensor, geometry: Geometry | None) -> Tensor:
    if geometry is None:
        return grad.flatten(0, -2).sum(0) if grad.dim() > 1 else grad
    return grad.sum((0, 2, 3))  # (N, C, H, W) -> (C,)


def _convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]):
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [weight.shape[0]], stride, padding, dilation, False, [0, 0], groups, mask
    )
