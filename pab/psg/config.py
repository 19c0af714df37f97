"""The settings of PSG: one frozen, checked dataclass that travels from a config file to the arithmetic."""

import math
from dataclasses import dataclass, fields
from numbers import Real


@dataclass(frozen=True)
class PSGConfig:
    """How a PSG layer computes its weight gradient (E2-Train, arXiv 1910.13349; variant of Peek-a-Boo's code).

    Args:
        input_bits: bits of the layer's input in the weight gradient; >= 1; 32 and more keep it exact.
        weight_bits: bits of the weight, read only by the predictive forward pass; >= 1.
        grad_bits: bits of the output gradient in the weight gradient; >= 1; 32 and more keep it exact.
        threshold: weight gradients smaller than this are small; >= 0. An absolute number, or with ``relative`` a
            share of the largest entry of the layer's weight gradient.
        relative: whether ``threshold`` is a share of the largest entry.
        sparsify: small entries become 0; else they take the exact gradient, for which the layer keeps its float
            input and runs a fourth convolution.
        take_sign: the weight gradient is replaced by its sign.
        predictive_forward: the output is zeroed where the convolution of quantised input and weight is negative; the
            backward pass is not gated. One convolution more.

    Raises:
        TypeError: a number of bits that is no int, a threshold that is no number, a switch that is no bool.
        ValueError: bits below 1, or a threshold that is negative or not finite.
    """

    input_bits: int = 8
    weight_bits: int = 8
    grad_bits: int = 16
    threshold: float = 1e-7
    relative: bool = True
    sparsify: bool = True
    take_sign: bool = False
    predictive_forward: bool = False

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int:
                if not isinstance(value, int) or isinstance(value, bool):
                    raise TypeError(f'PSGConfig: {field.name} must be an int, got {value!r}')
                if value < 1:
                    raise ValueError(
                        f'PSGConfig: {field.name} must be at least 1, got {value!r}; 32 or more is full precision'
                    )
            elif field.type is bool and not isinstance(value, bool):
                raise TypeError(f'PSGConfig: {field.name} must be True or False, got {value!r}')
        if not isinstance(self.threshold, Real) or isinstance(self.threshold, bool):
            raise TypeError(f'PSGConfig: threshold must be a number, got {self.threshold!r}')
        if self.threshold < 0 or not math.isfinite(self.threshold):
            raise ValueError(
                f'PSGConfig: threshold must be finite and >= 0, got {self.threshold!r}; '
                'a share of the largest gradient is asked for by relative=True, not by a negative number'
            )
