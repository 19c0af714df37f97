"""Initial weights, fixed completely by a seed and the parameters' names."""

import math
from collections.abc import Callable
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from ..checks import check_ints, known_choice
from . import draws

# (stream, how many, fan_in, fan_out) -> float64 numbers; fan_in is what one output sums over, fan_out the transposed
Scheme = Callable[[np.random.RandomState, int, int, int], np.ndarray]

SCHEMES: dict[str, Scheme] = {
    # torch's default, Kaiming uniform with a = sqrt 5
    'standard': lambda stream, n, fan_in, fan_out: draws.uniform(stream, n) / math.sqrt(fan_in),
    # arXiv 1502.01852, and other distributions of the same variance, 2 / fan_in
    'kaiming_normal': lambda stream, n, fan_in, fan_out: draws.normal(stream, n) * math.sqrt(2 / fan_in),
    'kaiming_uniform': lambda stream, n, fan_in, fan_out: draws.uniform(stream, n) * math.sqrt(6 / fan_in),
    'kaiming_laplace': lambda stream, n, fan_in, fan_out: draws.laplace(stream, n) * math.sqrt(1 / fan_in),
    # arXiv 1911.13299: one magnitude, with a random sign and without
    'kaiming_constant_signed': lambda stream, n, fan_in, fan_out: draws.signs(stream, n) * math.sqrt(2 / fan_in),
    'kaiming_constant_unsigned': lambda stream, n, fan_in, fan_out: np.full(n, math.sqrt(2 / fan_in)),
    # Glorot and Bengio 2010
    'xavier_normal': lambda stream, n, fan_in, fan_out: draws.normal(stream, n) * math.sqrt(2 / (fan_in + fan_out)),
    'xavier_constant': lambda stream, n, fan_in, fan_out: draws.signs(stream, n) * math.sqrt(2 / (fan_in + fan_out)),
}
# Their reset_parameters draws nothing: ones, zeros, running statistics of an unused layer, PReLU's 0.25.
_WITHOUT_CHANCE = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU)
# Layer -> the weight and the bias that it draws like a convolution or a linear layer.
_AFFINE = {
    **dict.fromkeys((_ConvNd, nn.Linear), ('weight', 'bias')),
    nn.MultiheadAttention: ('in_proj_weight', 'in_proj_bias'),
}
# Parameters of any other layer, by the globs that their names fit.
_TABLES = ('*token', '*pos_emb*', '*position_bias_table')  # class tokens, positions: normal, as in ViT and Swin
_TABLE_STD = 0.02
_CONSTANTS = ('*layer_scale*', 'gamma*', 'logit_scale')  # scales that a constructor makes all alike


@torch.no_grad()
def initialize_(network: nn.Module, scheme: str = 'kaiming_normal', seed: int = 0, fan_share: float = 1.0) -> nn.Module:
    """Draw every parameter of ``network`` anew, in place, and reset its normalisation statistics.

    A parameter's values depend on ``seed``, its name in ``network``, its shape and the scheme alone, on every machine
    (see :mod:`draws`). They are drawn in float64 and rounded once to the parameter's dtype.

    Convolution weights (out, in / groups, *kernel) are drawn by ``scheme``, linear weights (out, in) and all biases
    by 'standard', uniform within 1 / sqrt(fan_in), also those of nn.MultiheadAttention; normalisation layers become the
    identity. All other parameters a layer draws by its method ``initialize_(stream)``, where ``stream(name)`` is the
    RandomState of its parameter ``name``. Without the method, class tokens and position tables are drawn from N(0,
    0.02^2) (arXiv 2010.11929, 2103.14030), and scales that the constructor makes all alike, such as the layer scale of
    ConvNeXt, stay as they are. Both are known by their names.

    Args:
        network: returned as well.
        scheme: a key of ``SCHEMES``, else ValueError.
        seed: an int >= 0, else ValueError.
        fan_share: the share of its inputs that a convolution will use, by which its fans are multiplied; in (0, 1],
            else ValueError (the "scaled" initialisation of arXiv 1911.13299).

    A layer with parameters that none of these rules covers is named in a ValueError, and nothing has been changed.
    """
    check_initialization(scheme, seed, fan_share)
    layers, seen = [], set()
    for prefix, layer in network.named_modules():
        own = {name: p for name, p in layer.named_parameters(recurse=False) if id(p) not in seen}
        seen.update(map(id, own.values()))  # a parameter shared by two layers takes its first name
        if own or isinstance(layer, _WITHOUT_CHANCE):
            prefix = prefix + '.' if prefix else ''
            _check_rule(layer, own, prefix)
            layers.append((layer, own, lambda name, prefix=prefix: draws.stream(seed, prefix + name)))
    for layer, own, stream in layers:
        if isinstance(layer, _WITHOUT_CHANCE):
            layer.reset_parameters()
            continue
        for name in (affine := _affine(layer)):
            if name in own:
                _draw_affine(layer, name, scheme, fan_share, stream(name))
        if hasattr(layer, 'initialize_'):
            layer.initialize_(stream)
            continue
        for name in own.keys() - set(affine):
            if _fits(name, _TABLES):
                fill_(own[name], draws.normal(stream(name), own[name].numel()) * _TABLE_STD)
    return network


def check_initialization(scheme: str, seed: int, fan_share: float) -> None:
    """Raise a ValueError for a setting that :func:`initialize_` does not take."""
    known_choice('initialize_', 'scheme', scheme, SCHEMES)
    check_ints('initialize_', 0, seed=seed)
    if isinstance(fan_share, bool) or not 0 < fan_share <= 1:
        raise ValueError(f'initialize_: fan_share must lie in (0, 1], got {fan_share!r}; it is a share of the inputs')


def _affine(layer: nn.Module) -> tuple[str, ...]:
    return next((names for kind, names in _AFFINE.items() if isinstance(layer, kind)), ())


def _fits(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _check_rule(layer: nn.Module, own: dict[str, nn.Parameter], prefix: str) -> None:
    """Raise a ValueError where no rule draws one of the parameters of a layer."""
    if isinstance(layer, _WITHOUT_CHANCE) or hasattr(layer, 'initialize_'):
        return
    others = [name for name in own if name not in _affine(layer) and not _fits(name, _TABLES)]
    for name in others:
        if not _fits(name, _CONSTANTS):
            raise ValueError(
                f'initialize_: no rule draws parameter {prefix + name!r} of a {type(layer).__name__}; give that class '
                f'a method initialize_(stream) that fills it from stream({name!r}), a numpy RandomState, or leave all '
                'initial weights to the network itself (ImageClassifier: init=None)'
            )
        if not own[name].is_meta and bool((own[name] != own[name].flatten()[0]).any()):
            raise ValueError(
                f'initialize_: parameter {prefix + name!r} of a {type(layer).__name__} is a scale that has been '
                'trained, and its first value is not known; build the network anew'
            )


def _draw_affine(layer: nn.Module, name: str, scheme: str, fan_share: float, stream: np.random.RandomState) -> None:
    by_scheme = name == 'weight' and isinstance(layer, _ConvNd)
    fan_out, fan_in, *kernel = getattr(layer, _affine(layer)[0]).shape
    field = math.prod(kernel) * (fan_share if by_scheme else 1)
    parameter = layer.get_parameter(name)
    draw = SCHEMES[scheme if by_scheme else 'standard']
    fill_(parameter, draw(stream, parameter.numel(), fan_in * field, fan_out * field))


@torch.no_grad()
def fill_(parameter: Tensor, values: np.ndarray) -> None:
    """Copy float64 numbers, in the order of entries, into a parameter."""
    # rounded on the CPU before it moves, so that no device decides the last bit
    parameter.copy_(torch.from_numpy(np.asarray(values).reshape(parameter.shape)).to(parameter.dtype))
