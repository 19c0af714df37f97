"""The settings of PSG: one frozen, checked dataclass that travels from a config file to the arithmetic."""

from dataclasses import dataclass

from ..checks import check_ints, known_choice


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

    A setting out of its range raises a ValueError.
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
        check_ints('PSGConfig', input_bits=self.input_bits, weight_bits=self.weight_bits, grad_bits=self.grad_bits)
        known_choice('PSGConfig', 'input_signed', self.input_signed, (True, False, None))
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
