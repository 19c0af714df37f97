r"""Stand-ins that let a positive flow through every layer while SynFlow scores; ours, not from its paper.

SynFlow assumes that an activation passes positive values on unchanged, as ReLU does. It sends ones through a network of
absolute weights, where values become large. There ReLU6 and sigmoid are saturated, LayerNorm subtracts what it is
given, and behind a weight that is 0 throughout nothing arrives: the gradient is 0, and so is every score.

docs/networks.md lists all stand-ins, and :data:`STAND_INS` names their functions. With them the flow
:math:`\sum w\, \partial R / \partial w` into a layer of a chain equals the flow out of it, as in a network of ReLUs.
Were it not shared among factors, every block with attention (query times key times value) would pass three times its
flow to the layers in front, and twelve such blocks would leave nothing of the last one. Modules, functions and methods
have the same stand-ins, also those that change their argument in place (``x.sigmoid_()``, ``x *= gate``). What a
network computes by hand, such as a mean that it subtracts, stays as it is.
"""

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def _relu(input: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.where(input > 0, input, 0)  # unlike ReLU's, it may be changed in place before the backward pass


def _identity(input: Tensor, *_: Any, **__: Any) -> Tensor:
    return input.clone()  # the output may be changed in place, and the input be used elsewhere


def _clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    return input.clone() if min is None else torch.clamp(input, min)


def _lower(minimum: Callable) -> Callable:
    """The same function; of an activation and a bound, which is constant, it is the activation."""

    @functools.wraps(minimum)
    def kept(input: Tensor, other: Any = None, *args: Any, **kwargs: Any) -> Any:
        if isinstance(other, Tensor) and input.requires_grad != other.requires_grad:
            activation = input if input.requires_grad else other
            return activation.expand(torch.broadcast_shapes(input.shape, other.shape)).clone()
        given = args if other is None else (other, *args)  # the minimum of all, or along an axis
        return minimum(input, *given, **kwargs)

    return kept


def _gate(input: Tensor, *_: Any, **__: Any) -> Tensor:
    r"""An open gate: :math:`g(z) = z / z_0` with :math:`z_0 = z` held constant, so 1, with the relative change of z."""
    positive = input > 0
    held = torch.where(positive, input.detach(), 1)
    return torch.where(positive, input / held, 1)


def _softmax(input: Tensor, dim: int | None = None, *_: Any, **__: Any) -> Tensor:
    dim = (0 if input.dim() in (0, 1, 3) else 1) if dim is None else dim  # torch's own choice
    reached = input > 0
    reached = reached | ~reached.any(dim, keepdim=True) & (input > -torch.inf)
    return _gate(input) * reached / reached.sum(dim, keepdim=True)


def _share_flow(product: Callable) -> Callable:
    """The same product; each of its n factors that came out of other functions gets 1/n of the flow."""

    @functools.wraps(product)
    def shared(*args: Any, **kwargs: Any) -> Tensor:
        inner = [isinstance(x, Tensor) and x.requires_grad and not _is_parameter(x) for x in args]
        n = max(1, sum(inner))
        args = [torch.lerp(x.detach(), x, 1 / n) if own else x for x, own in zip(args, inner, strict=True)]
        return product(*args, **kwargs)

    return shared


def _pow(input: Tensor, exponent: Any) -> Tensor:
    if isinstance(exponent, int | float) and exponent > 0 and input.requires_grad:
        input = torch.lerp(input.detach(), input, 1 / exponent)
    return torch.pow(input, exponent)


def _addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return input + value * _share_flow(torch.mul)(tensor1, tensor2)


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    first, second = input.chunk(2, dim)
    return _share_flow(torch.mul)(first, _gate(second))


def _is_parameter(tensor: Tensor) -> bool:
    return tensor.is_leaf or (tensor._is_view() and tensor._base.is_leaf)


def _normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    return input / input.detach().norm(p, dim, keepdim=True).clamp_min(eps)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value))
    logits = _matmul(query, key.transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones_like(logits, dtype=torch.bool).tril()
    if attn_mask is not None:
        open_ = attn_mask if attn_mask.dtype == torch.bool else attn_mask > -torch.inf
        logits = logits.masked_fill(~open_, -torch.inf)
    return _matmul(_softmax(logits, -1), value)


_matmul = _share_flow(torch.matmul)


def _baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * input + alpha * _matmul(batch1, batch2)


# torch's own function, but for its call of the mode, in which it runs
_inner_multi_head_attention = types.FunctionType(
    F.multi_head_attention_forward.__code__,
    {**vars(F), 'has_torch_function': lambda _: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)


def _multi_head_attention(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    with KeepFlow():
        return _inner_multi_head_attention(*args, **kwargs)


def _last_axes(input: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, *_, **__) -> Tensor:
    output = input.clone() if weight is None else input * weight
    return output if bias is None else output + bias


def _rms_norm(input: Tensor, shape: Any, weight: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    return _last_axes(input, shape, weight)


def _channels(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (-1, *[1] * (input.dim() - 2))  # (C,) -> (C, 1, 1)
    return _last_axes(input, (), *(None if part is None else part.view(shape) for part in (weight, bias)))


def _group_norm(input: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, *_, **__):
    return _channels(input, weight, bias)


def _batch_norm(input, running_mean, running_var, weight=None, bias=None, *settings, **more) -> Tensor:
    if running_mean is None:
        return _channels(input, weight, bias)
    return F.batch_norm(input, running_mean, running_var, weight, bias, *settings, **more)


def _instance_norm(input, running_mean=None, running_var=None, weight=None, bias=None, *_, **__) -> Tensor:
    return _channels(input, weight, bias)


def _in_place(stand_in: Callable) -> Callable:
    # of a copy, since what a stand-in saves for its gradient must not change
    return lambda input, *args, **kwargs: input.copy_(stand_in(input.clone(), *args, **kwargs))


def _named(names: str, stand_in: Callable[[Callable], Callable]) -> dict[Callable, Callable]:
    """Every function and method of some names, and the one that changes its argument, with its stand-in."""
    homes = (torch, torch.Tensor, torch.special, torch.linalg, F)
    found = {}
    for name, home in ((name, home) for name in names.split() for home in homes if hasattr(home, name)):
        found[getattr(home, name)] = stand_in(getattr(home, name))
        if hasattr(home, f'{name}_'):
            found[getattr(home, f'{name}_')] = _in_place(found[getattr(home, name)])
    return found


STAND_INS: dict[Callable, Callable] = {
    **_named('mul multiply matmul mm bmm mv dot vdot inner outer einsum', _share_flow),
    **_named('minimum fmin min', _lower),
    **_named('relu6 hardswish silu gelu mish', lambda _: _relu),
    **_named('hardtanh tanh softsign erf atan arctan logsigmoid log_softmax', lambda _: _identity),
    **_named('local_response_norm clamp_max', lambda _: _identity),
    **_named('clamp clip', lambda _: _clamp),
    **_named('sigmoid expit hardsigmoid', lambda _: _gate),
    **_named('glu', lambda _: _glu),
    **_named('softmax softmin', lambda _: _softmax),
    **_named('pow __pow__', lambda _: _pow),
    torch.Tensor.__ipow__: _in_place(_pow),
    **_named('square', lambda _: functools.partial(_pow, exponent=2)),
    **_named('sqrt', lambda _: functools.partial(_pow, exponent=0.5)),
    **_named('addcmul', lambda _: _addcmul),
    **_named('baddbmm', lambda _: _baddbmm),
    **_named('scaled_dot_product_attention', lambda _: _attention),
    **_named('multi_head_attention_forward', lambda _: _multi_head_attention),
    **_named('layer_norm', lambda _: _last_axes),
    **_named('rms_norm', lambda _: _rms_norm),
    **_named('group_norm', lambda _: _group_norm),
    **_named('normalize', lambda _: _normalize),
    F.instance_norm: _instance_norm,
    F.batch_norm: _batch_norm,
}
"""Function of torch -> what takes its place; both have the same arguments."""


class KeepFlow(TorchFunctionMode):
    """Within a ``with`` block, functions of torch on floating tensors have their stand-ins."""

    def __torch_function__(self, func: Callable, _types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        stand_in = STAND_INS.get(func)
        kwargs = kwargs or {}
        # einsum has its equation in front
        first = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
        if stand_in is not None and first is not None and first.is_floating_point():
            func = stand_in
        return func(*args, **kwargs)


def fill_zero_weight(name: str, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """The tensor itself, or a constant where it is a weight that is 0 throughout though a mask keeps some of it.

    Args:
        name: of the parameter; only one whose own name is ``weight`` is filled.
        weight: of any shape.
        mask: bool of that shape, True where the weight stays; None: everywhere.
    """
    pruned = mask is not None and not mask.any()
    if name.rpartition('.')[2] != 'weight' or weight.any() or pruned:
        return weight
    filled = torch.full_like(weight, 1 if weight.dim() < 2 else weight[0].numel() ** -0.5)
    return filled if mask is None else filled * mask


def is_layer_scale(name: str, parameter: Tensor) -> bool:
    """Tell if all entries of a parameter, two or more, are one number that scales a branch down, 0 < abs <= 0.1.

    Args:
        name: of the parameter; one whose own name is ``weight`` or ``bias`` is none.
        parameter: of any shape.
    """
    if name.rpartition('.')[2] in ('weight', 'bias') or parameter.numel() < 2:
        return False
    first = parameter.detach().flatten()[0]
    return bool(0 < first.abs() <= 0.1 and (parameter == first).all())
