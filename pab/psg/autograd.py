"""The two passes of a PSG layer: ordinary in the output and the input gradient, quantised in the weight gradient."""

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from . import kernels, quantize as q
from .settings import PSGConfig

Conv = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]
"""Stride, padding, dilation and groups of a convolution, as ``F.conv2d`` takes them; pairs are (height, width)."""


def fast_bfloat16(device: str) -> bool:
    """True if torch says that the processor or GPU multiplies bfloat16 by instructions of its own."""
    if device == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch has no public name for this question
    asked = (getattr(torch.cpu, name, None) for name in ('_is_amx_tile_supported', '_is_avx512_bf16_supported'))
    return device == 'cpu' and any(ask() for ask in asked if ask)


# torch.compile cannot follow it. torch.compiler.assume_constant_result sets the same mark, but imports the compiler.
fast_bfloat16._dynamo_marked_constant = True


class PSGProduct(torch.autograd.Function):
    """A convolution, or with ``conv=None`` a linear layer, with PSG in its backward pass.

    Shapes: (N, C_in, H, W) and (C_out, C_in / groups, kH, kW) -> (N, C_out, H', W'), or (N, ..., in) and (out, in) ->
    (N, ..., out). Runs three products a step (four unless ``sparsify``, one more with ``predictive_forward``).

    The backward pass reads the input's code, of one byte an entry up to 8 bits. It reads the input itself where the
    exact gradient is wanted, the code would be wider than 16 bits, or the input has two bytes an entry; such an input
    is quantised then. An output gradient of two bytes an entry, which has 8 or 11 significant bits, is quantised only
    to fewer than 16 bits. Autocast works as with ``F.conv2d``, but the gradient of a float32 weight stays float32. The
    bias has its exact gradient. A second backward pass raises RuntimeError.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, config: PSGConfig, conv) -> Tensor:
        dtype, device = x.dtype, x.device.type
        if _autocasts(device) and torch.float64 not in (dtype, weight.dtype):
            dtype = torch.get_autocast_dtype(device)
        ctx.config, ctx.conv, ctx.dtype = config, conv, dtype
        ctx.dtypes = x.dtype, weight.dtype, None if bias is None else bias.dtype
        x, cast_weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        ctx.layout = x.shape, x.stride()
        saved = low = scale = None
        with _without_autocast(device):
            y = _product(x, cast_weight, bias, conv)
            if config.input_bits < q.FULL_PRECISION_BITS and (ctx.needs_input_grad[1] or config.predictive_forward):
                low, scale = kernels.input_range(x, config.input_signed)
            if config.predictive_forward:
                bound = q.channel_scale(cast_weight)
                quantized_weight = q.quantize(cast_weight, config.weight_bits, -bound, bound)
                estimate = _product(q.quantize(x, config.input_bits, low, scale), quantized_weight, bias, conv)
                y = torch.where(estimate < 0, 0, y)
            if ctx.needs_input_grad[1]:
                # an input of two bytes stays as it is: the ReLU before it keeps it anyway
                keeps_code = _multiplies_codes(config) and x.element_size() > 2
                saved = kernels.encode_input(x, low, scale, config.input_bits) if keeps_code else x
        ctx.save_for_backward(weight, saved, low, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        weight, saved, low, scale = ctx.saved_tensors
        conv = ctx.conv
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        input_dtype, weight_dtype, bias_dtype = ctx.dtypes
        grad_x = grad_w = grad_b = None
        with _without_autocast(grad.device.type):
            grad = grad.to(ctx.dtype)
            if need_w:
                grad_w, grad_b, saved = _weight_gradient(ctx, grad, weight, saved, low, scale)
                grad_w = grad_w.to(weight_dtype)
            if need_x:
                if saved is None:  # only its shape and layout are read
                    saved = torch.empty_strided(*ctx.layout, dtype=ctx.dtype, device=grad.device)
                w, mask = weight.to(ctx.dtype), [True, False, False]
                grad_x = grad @ w if conv is None else _convolution_backward(grad, saved, w, conv, mask)[0]
                grad_x = grad_x.to(input_dtype)
            if need_b:
                if grad_b is None:
                    grad_b = grad.flatten(0, -2).sum(0) if conv is None else grad.sum((0, 2, 3))  # -> (C_out,)
                grad_b = grad_b.to(bias_dtype)
        return grad_x, grad_w, grad_b, None, None


def _weight_gradient(ctx, grad: Tensor, weight: Tensor, saved: Tensor, low: Tensor | None, scale: Tensor | None):
    """The PSG weight gradient, the bias gradient if the same kernel makes it, and the input or what stands for it."""
    config, conv, dtype, factor = ctx.config, ctx.conv, grad.dtype, 1.0
    exact_grad = config.grad_bits >= (16 if grad.element_size() == 2 else q.FULL_PRECISION_BITS)
    if not exact_grad and _in_bfloat16(config, grad):
        dtype = torch.bfloat16
        quantized_grad, factor = kernels.code_gradient(grad, config.grad_bits)
    else:
        quantized_grad = grad if exact_grad else kernels.quantize_gradient(grad, config.grad_bits)
    if not saved.is_floating_point():
        quantized_input = kernels.decode_input(saved, low, config.input_bits, dtype)
    elif _multiplies_codes(config):
        quantized_input = kernels.recode_input(saved, low, scale, config.input_bits)
    else:
        quantized_input = q.quantize(saved, config.input_bits, low, scale)
    need_b = ctx.needs_input_grad[2] and exact_grad  # as the ordinary layer does, to have its bias bit for bit
    product, grad_b = _weight_product(quantized_grad, quantized_input, weight, conv, need_b)
    rule = config.threshold, config.relative, config.take_sign
    if _multiplies_codes(config):
        product = kernels.weight_gradient(product, (scale - low) * factor, *rule, large=kernels.is_large(saved))
    else:
        exact = None
        if not config.sparsify:
            is_exact = exact_grad and quantized_input is saved
            exact = product if is_exact else _weight_product(grad, saved, weight, conv)[0]
            exact = exact.to(q.working_dtype(grad.dtype))
        product = q.sparse_gradient(product, *rule, exact)
    return product, grad_b, quantized_input if quantized_input.dtype == grad.dtype else None


def _multiplies_codes(config: PSGConfig) -> bool:
    """True if the weight gradient is a product with the input's code, multiplied by the input's scale afterwards."""
    return config.sparsify and q.code_dtype(config.input_bits) is not None


def _in_bfloat16(config: PSGConfig, grad: Tensor) -> bool:
    """True if a float32 weight gradient is to be multiplied in bfloat16, and that is faster on this device."""
    return config.bfloat16_product and grad.dtype == torch.float32 and fast_bfloat16(grad.device.type)


def _autocasts(device: str) -> bool:
    # torch raises an error for a device that has no autocast, such as 'meta'
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _without_autocast(device: str):
    # entering torch.autocast costs as much as a small kernel
    return torch.autocast(device, enabled=False) if _autocasts(device) else nullcontext()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, conv: Conv | None) -> Tensor:
    return F.linear(x, weight, bias) if conv is None else F.conv2d(x, weight, bias, *conv)


def _weight_product(grad: Tensor, x: Tensor, weight: Tensor, conv: Conv | None, need_b: bool = False) -> tuple:
    if conv is None:
        return grad.flatten(0, -2).t() @ x.flatten(0, -2), None
    # the weight's values are not read, only its shape and layout, so its type need not be the gradient's
    weight = weight if weight.dtype == grad.dtype else torch.empty_like(weight, dtype=grad.dtype)
    return _convolution_backward(grad, x, weight, conv, [False, True, need_b])[1:]


def _convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, conv: Conv, mask: list[bool]):
    stride, padding, dilation, groups = conv
    return torch.ops.aten.convolution_backward.default(
        grad, x, weight, [weight.shape[0]], stride, padding, dilation, False, [0, 0], groups, mask
    )
