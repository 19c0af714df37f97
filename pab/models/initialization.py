"""Initial weights, fixed completely by a seed and the parameters' names."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from . import draws
from .checks import known_choice

Shape = tuple[int, ...]
Scheme = Callable[[Shape, np.random.RandomState], np.ndarray]


def fans(shape: Shape) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (out, in / groups, *kernel): what one output sums over, and the same transposed."""
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def standard(shape: Shape, rng: np.random.RandomState) -> np.ndarray:
    """Uniform within 1 / sqrt(fan_in): torch's default (Kaiming uniform with a = sqrt 5)."""
    return draws.uniform(rng, math.prod(shape)) / math.sqrt(fans(shape)[0])


def kaiming_normal(shape: Shape, rng: np.random.RandomState) -> np.ndarray:
    """N(0, 2 / fan_in) (arXiv 1502.01852)."""
    return draws.normal(rng, math.prod(shape)) * math.sqrt(2 / fans(shape)[0])


def kaiming_uniform(shape: Shape, rng: np.random.RandomState) -> np.ndarray:
    """Uniform with variance 2 / fan_in."""
    return draws.uniform(rng, math.prod(shape)) * math.sqrt(6 / fans(shape)[0])


def kaiming_constant_signed(shape: Shape, rng: np.random.RandomState) -> np.ndarray:
    """A random sign times sqrt(2 / fan_in) (arXiv 1911.13299)."""
    return draws.signs(rng, math.prod(shape)) * math.sqrt(2 / fans(shape)[0])


def kaiming_constant_unsigned(shape: Shape, rng: np.random.RandomState) -> np.ndarray:
    """sqrt(2 / fan_in) everywhere, never negative."""
    return np.full(math.prod(shape), math.sqrt(2 / fans(shape)[0]))


def kaiming_laplace(shape: Shape, rng: np.random.RandomState) -> np.ndarray:
    """Laplace of scale sqrt(2) / sqrt(2 fan_in), hence of variance 2 / fan_in."""
    return draws.laplace(rng, math.prod(shape)) * math.sqrt(1 / fans(shape)[0])


def xavier_normal(shape: Shape, rng: np.random.RandomState) -> np.ndarray:
    """N(0, 2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    return draws.normal(rng, math.prod(shape)) * math.sqrt(2 / sum(fans(shape)))


def xavier_constant(shape: Shape, rng: np.random.RandomState) -> np.ndarray:
    """A random sign times sqrt(2 / (fan_in + fan_out))."""
    return draws.signs(rng, math.prod(shape)) * math.sqrt(2 / sum(fans(shape)))


SCHEMES: dict[str, Scheme] = {
    scheme.__name__: scheme
    for scheme in (
        standard,
        kaiming_normal,
        kaiming_uniform,
        kaiming_constant_signed,
        kaiming_constant_unsigned,
        kaiming_laplace,
        xavier_normal,
        xavier_constant,
    )
}
# Their reset_parameters draws nothing: ones, zeros, running statistics of an unused layer, PReLU's 0.25.
_WITHOUT_CHANCE = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU)


def check_init(scheme: str, seed: int) -> None:
    """ValueError when ``scheme`` is not in SCHEMES or ``seed`` is not an int >= 0."""
    known_choice('initialize_', 'scheme', scheme, SCHEMES)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f'initialize_: seed must be an int >= 0, got {seed!r}')


@torch.no_grad()
def initialize_(network: nn.Module, scheme: str = 'kaiming_normal', seed: int = 0) -> nn.Module:
    """Draw every parameter of ``network`` anew, in place, and reset its normalisation statistics.

    A parameter's values depend on ``seed``, its name in ``network``, its shape and the scheme, on nothing else: not on
    the device, memory format, torch version, CPU, order of construction or the other layers (see :mod:`draws`). They
    are drawn in float64 and rounded once to the parameter's dtype.

    * convolution weights (out, in / groups, *kernel): by ``scheme``;
    * linear weights (out, in): 'standard';
    * biases of both: uniform within 1 / sqrt(fan_in), as torch does;
    * normalisation layers: the identity (weight 1, bias 0, running mean 0, running variance 1).

    A layer of any other kind draws its own parameters by a method ``initialize_(stream)``, where ``stream(name)`` is
    the RandomState of the parameter called ``name`` inside that layer.

    Args:
        scheme: a key of ``SCHEMES``, else ValueError.
        seed: an int >= 0, else ValueError.

    Returns:
        ``network`` itself.

    Raises:
        ValueError: also when a layer owns parameters that none of these rules covers; it names the first, and nothing
            has been changed.
    """
    check_init(scheme, seed)
    steps, seen = [], set()
    for prefix, layer in network.named_modules():
        own = {name: p for name, p in layer.named_parameters(recurse=False) if id(p) not in seen}
        seen.update(map(id, own.values()))  # a parameter shared by two layers takes its first name
        if own or isinstance(layer, _WITHOUT_CHANCE):
            steps.append((layer, own, prefix + '.' if prefix else '', _rule(layer, own, prefix, scheme)))
    for layer, own, prefix, rule in steps:
        rule(layer, own, lambda name, prefix=prefix: draws.stream(seed, prefix + name))
    return network


def _rule(layer: nn.Module, own: dict[str, nn.Parameter], prefix: str, scheme: str) -> Callable:
    """The function (layer, its parameters, stream) that draws this kind of layer; ValueError when there is none."""
    if hasattr(layer, 'initialize_'):
        return lambda layer, own, stream: layer.initialize_(stream)
    if isinstance(layer, _WITHOUT_CHANCE):
        return lambda layer, own, stream: layer.reset_parameters()
    if isinstance(layer, _ConvNd | nn.Linear) and own.keys() <= {'weight', 'bias'}:
        weights = SCHEMES[scheme] if isinstance(layer, _ConvNd) else standard
        return lambda layer, own, stream: _draw_affine(layer, own, stream, weights)
    name = '.'.join(filter(None, (prefix, next(iter(own)))))
    raise ValueError(
        f'initialize_: no rule draws parameter {name!r} of a {type(layer).__name__}; give that class a method '
        f'initialize_(stream) that fills it from stream({next(iter(own))!r}), a numpy RandomState, or leave all '
        'initial weights to the network itself (ImageClassifier: init=None)'
    )


def _draw_affine(layer: nn.Module, own: dict[str, nn.Parameter], stream: Callable, weights: Scheme) -> None:
    shape = tuple(layer.weight.shape)
    for name, parameter in own.items():
        if name == 'weight':
            values = weights(shape, stream(name))
        else:
            values = draws.uniform(stream(name), parameter.numel()) / math.sqrt(fans(shape)[0])
        # rounded on the CPU before it moves, so that no device decides the last bit
        parameter.copy_(torch.from_numpy(values.reshape(parameter.shape)).to(parameter.dtype))
