"""The settings of PSG: one frozen, checked dataclass that travels from a config file to the arithmetic."""

from dataclasses import dataclass, fields
from numbers import Real


@dataclass(frozen=True)
class PSGConfig:
    """Settings of a PSG layer's weight gradient (E2-Train, arXiv 1910.13349; variant of Peek-a-Boo's code).

    Args:
        input_bits: bits of the layer's input in the weight gradient; >= 1; 32 and more keep it exact.
        weight_bits: bits of the weight, read only by the predictive forward pass; >= 1.
        grad_bits: bits of the output gradient in the weight gradient; >= 1; 32 and more keep it exact.
        threshold: weight gradients smaller than this are small; >= 0.
        relative: ``threshold`` is a share of the largest entry of the layer's weight gradient; else an absolute number.
        sparsify: small entries become 0; else they take the exact gradient, for which the layer keeps its float
            input and runs a fourth convolution.
        take_sign: the weight gradient is replaced by its sign.
        predictive_forward: the output is zeroed where the convolution of quantised input and weight is negative; the
            backward pass is not gated. One convolution more.
        bfloat16_product: the weight gradient of a float32 layer is multiplied in bfloat16 where the processor or GPU
            has instructions for it, which is several times faster there. Codes of 8 bits are exact in bfloat16 and
            are summed in float32; each entry of the result is rounded once, to 8 significant bits. Needs
            ``input_bits`` and ``grad_bits`` of at most 8 and ``sparsify``.
        input_signed: True quantises the input over [-s, s], False over [0, s], which cuts negative entries off. None
            takes [-s, s] for a batch that has a negative entry and [0, s], with half the step, for one that has none;
            each process decides so, and each part of an accumulated batch.

    A setting of another type raises a TypeError, one out of its range a ValueError.
    """

    input_bits: int = 8
    weight_bits: int = 8
    grad_bits: int = 16
    threshold: float = 1e-7
    relative: bool = True
    sparsify: bool = True
    take_sign: bool = False
    predictive_forward: bool = False
    bfloat16_product: bool = False
    input_signed: bool | None = None

    def __post_init__(self):
        kinds = {int: (int, 'an int'), float: (Real, 'a number'), bool: (bool, 'True or False')}
        kinds[bool | None] = bool | None, 'True, False or None (by the data)'
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            kind, words = kinds[field.type]
            if not isinstance(value, kind) or (isinstance(value, bool) and field.type in (int, float)):
                raise TypeError(f'PSGConfig: {name} must be {words}, got {value!r}')
            if kind is int and value < 1:
                raise ValueError(f'PSGConfig: {name} must be at least 1, got {value!r}; 32 or more is full precision')
        if self.bfloat16_product and not (max(self.input_bits, self.grad_bits) <= 8 and self.sparsify):
            raise ValueError(
                'PSGConfig: bfloat16_product needs input_bits and grad_bits of at most 8, which bfloat16 holds without '
                f'error, and sparsify; got {self.input_bits!r}, {self.grad_bits!r} and sparsify={self.sparsify!r}'
            )
        if not 0 <= self.threshold < float('inf'):
            raise ValueError(
                f'PSGConfig: threshold must be finite and >= 0, got {self.threshold!r}; '
                'relative=True, not a negative number, makes it a share of the largest gradient'
            )
