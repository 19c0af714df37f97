r"""What a network and its training cost: multiply-accumulates, bit-operations, and bytes.

A multiply-accumulate (MAC) is one product that is added to a sum. torch's own counter, ``FlopCounterMode`` of
``torch.utils.flop_counter``, counts those of the forward pass of each layer, :math:`M_l` for one image. With
:math:`d_l` the density of the layer's weights, one step on a batch of B images takes

.. math:: \text{forward} = B \sum_l d_l M_l, \quad
          \text{input gradient} = B \sum_{l > 1} d_l M_l, \quad
          \text{weight gradient} = B \sum_l d_l M_l

where the first layer needs no input gradient, and only weights that are left need a weight gradient. These are the MACs
of a machine that skips pruned weights; today's kernels compute the dense ones, with :math:`d_l = 1`.

The bit-operations of a product of operands with a and b bits are :math:`a b` for each MAC (van Baalen et al. 2020,
arXiv 2005.07093). Operands have 32 bits, except in the weight gradient of a layer with the attribute
``weight_gradient_bits``, and in pruning, which computes in 64 bits.

An update takes 2 MACs for each weight that is left with a sign optimizer (one average), and 3 with any other (momentum,
weight decay and step of SGD).
"""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten
FLOAT_BITS = 32
SCORE_BITS = 64  # scores are computed in float64
ALMOST_ALL = Fraction(99, 100)  # a density at which a round has something to remove
SIGN_UPDATE, OTHER_UPDATE = 2, 3  # MACs for each weight of an optimizer's step


@dataclass(frozen=True)
class LayerCost:
    """One layer with a weight.

    Args:
        name: of the layer in the network.
        kind: its class.
        weight: shape of its weight.
        output: shape of its output for one image, without the batch.
        macs: of the forward pass for one image, dense.
        kept: weights that are left.
        gradient_bits: bits of the two operands of the weight gradient: input, output gradient.
        sign_trained: whether its weight belongs to a sign optimizer.
    """

    name: str
    kind: str
    weight: tuple[int, ...]
    output: tuple[int, ...]
    macs: int
    kept: int
    gradient_bits: tuple[int, int] = (FLOAT_BITS, FLOAT_BITS)
    sign_trained: bool = False

    @property
    def total(self) -> int:
        """Number of weights, pruned ones included."""
        return math.prod(self.weight)

    @property
    def sparse_macs(self) -> float:
        """MACs of the forward pass for one image that have a weight which is left."""
        return self.macs * self.kept / self.total


@dataclass
class Work:
    """An amount of computation: MACs and bit-operations by phase."""

    macs: dict[str, float] = field(default_factory=dict)
    bit_operations: dict[str, float] = field(default_factory=dict)

    def add(self, phase: str, macs: float, bits: tuple[int, int] = (FLOAT_BITS, FLOAT_BITS)) -> None:
        """Count MACs whose operands have the given bits."""
        self.macs[phase] = self.macs.get(phase, 0) + macs
        self.bit_operations[phase] = self.bit_operations.get(phase, 0) + macs * bits[0] * bits[1]

    def times(self, factor: float) -> 'Work':
        """As much again and again."""
        return Work(
            {phase: macs * factor for phase, macs in self.macs.items()},
            {phase: bits * factor for phase, bits in self.bit_operations.items()},
        )

    def plus(self, other: 'Work') -> 'Work':
        """Both together."""
        macs = {p: self.macs.get(p, 0) + other.macs.get(p, 0) for p in {**self.macs, **other.macs}}
        bits = {p: self.bit_operations.get(p, 0) + other.bit_operations.get(p, 0) for p in macs}
        return Work(macs, bits)


def count_layers(
    network: nn.Module,
    input_shape: tuple[int, ...],
    masks: Mapping[str, Tensor] | None = None,
    sign_trained: Iterable[str] = (),
) -> list[LayerCost]:
    """Count every layer that has a weight of two or more dimensions, in the order in which they run.

    Args:
        network: images (N, *input_shape) -> logits; unchanged.
        input_shape: (C, H, W) of one image.
        masks: parameter name -> bool tensor, True where the weight is left; a weight without one is dense.
        sign_trained: names of the parameters that a sign optimizer owns.

    Returns:
        One entry for each layer; what functions outside of layers multiply (such as attention) is in the last entry,
        with the name '(functions)' and no weight, if there is any.
    """
    masks, sign_trained = masks or {}, set(sign_trained)
    network = copy.deepcopy(network).to('meta').eval()
    outputs: dict[str, tuple[int, ...]] = {}
    layers = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(getattr(layer, 'weight', None), Tensor) and layer.weight.dim() > 1
    }

    def note_shape(layer: nn.Module, _inputs: tuple, output: Tensor) -> None:
        outputs.setdefault(own_names[layer], tuple(output.shape[1:]))

    own_names = {layer: name for name, layer in layers.items()}
    for layer in own_names:
        layer.register_forward_hook(note_shape)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.empty(1, *input_shape, device='meta'))
    counts = counter.get_flop_counts()
    root = type(network).__name__
    rows = []
    for name, output in outputs.items():
        layer, weight = layers[name], f'{name}.weight' if name else 'weight'
        mask = masks.get(weight)
        rows.append(
            LayerCost(
                name,
                type(layer).__name__,
                tuple(layer.weight.shape),
                output,
                sum(counts.get(f'{root}.{name}' if name else root, {}).values()) // 2,
                layer.weight.numel() if mask is None else int(mask.sum()),
                getattr(layer, 'weight_gradient_bits', (FLOAT_BITS, FLOAT_BITS)),
                weight in sign_trained,
            )
        )
    rest = counter.get_total_flops() // 2 - sum(row.macs for row in rows)
    return [*rows, LayerCost('(functions)', '', (), (), rest, 1)] if rest else rows


def step_work(layers: list[LayerCost], batch: int) -> Work:
    """Count one training step on a batch; see the module for the formulas.

    Args:
        layers: of :func:`count_layers`.
        batch: images of the step.
    """
    work = Work()
    for index, layer in enumerate(layers):
        macs = batch * layer.sparse_macs
        work.add('forward', macs)
        work.add('input gradient', macs if index else 0)
        work.add('weight gradient', macs, layer.gradient_bits)
        if layer.weight:
            work.add('optimizer', layer.kept * (SIGN_UPDATE if layer.sign_trained else OTHER_UPDATE))
    return work


def dense_sgd(layers: list[LayerCost]) -> list[LayerCost]:
    """The same layers, dense, trained by SGD with exact gradients."""
    return [replace(row, kept=row.total, gradient_bits=(FLOAT_BITS, FLOAT_BITS), sign_trained=False) for row in layers]


def latent_signs(layers: list[LayerCost]) -> list[LayerCost]:
    """The same pruned layers, their signs trained by latent weights: exact gradients, and SGD on the latent weights."""
    return [replace(row, gradient_bits=(FLOAT_BITS, FLOAT_BITS), sign_trained=False) for row in layers]


def pruning_work(pruner, network: nn.Module, input_shape: tuple[int, ...], images: int) -> Work:
    """Count a pruning: the products of one round, counted by torch, times the rounds.

    Args:
        pruner: of :mod:`pab.pruners`; its rounds count as dense, as they are computed.
        network: not pruned; unchanged.
        input_shape: (C, H, W) of one image.
        images: that a pruner which reads data is shown; one is run, and the count is multiplied.
    """
    data = 'batches' in pruner.needs
    example = [(torch.zeros(1, *input_shape), torch.zeros(1, dtype=torch.long))] if data else None
    one_round = copy.copy(pruner)
    one_round.settings = replace(pruner.settings, rounds=1, density=ALMOST_ALL, classifier_density=None)
    with FlopCounterMode(display=False, custom_mapping={aten.convolution_backward: _backward_flops}) as counter:
        one_round.prune(network, example, input_shape=input_shape)
    work = Work()
    macs = counter.get_total_flops() / 2 * (images if data else 1) * pruner.settings.rounds
    work.add('pruning', macs, (SCORE_BITS, SCORE_BITS))
    return work


def _backward_flops(grad, x, weight, *_settings, out_shape) -> int:
    # torch's own formula counts the weight gradient of a grouped convolution once for each group
    wanted = sum(shape is not None for shape in out_shape[:2])
    return wanted * 2 * grad[0] * math.prod(grad[2:]) * math.prod(weight)


def saved_bytes(network: nn.Module, input_shape: tuple[int, ...], batch: int = 2) -> float:
    """Bytes for each image that a forward pass in training keeps for the backward pass; parameters do not count."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    network = copy.deepcopy(network).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(torch.rand(batch, *input_shape))  # holds the graph, so no storage is used twice
    del output
    return sum(kept.values()) / batch
