r"""The formulas of costs: multiply-accumulates, bit-operations, and bytes.

A multiply-accumulate (MAC) is one product that is added to a sum. torch's ``FlopCounterMode`` counts those of each
layer's forward pass, :math:`M_l` for one image. With :math:`d_l` the density of the layer's weights, one step on a
batch of B images takes

.. math:: \text{forward} = B \sum_l d_l M_l, \quad
          \text{input gradient} = B \sum_{l > 1} d_l M_l, \quad
          \text{weight gradient} = B \sum_l g_l M_l

where the first layer needs no input gradient, and :math:`g_l` is the share of its weights that learn: the kept ones,
:math:`g_l = d_l`, none in a frozen layer, or all while an optimizer asks for the gradient of pruned weights
(``want_pruned_gradients``, :mod:`pab.contracts`). A layer that multiplies by another weight than its parameter
(``used_weight``, :mod:`pab.contracts`) has as :math:`d_l` the share of that weight's entries which are not 0, and as
:math:`g_l` the share that its mask keeps, since unused entries learn as well. These are the MACs of a machine that
skips pruned weights; today's kernels compute the dense ones, with :math:`d_l = g_l = 1`.

A product of operands with a and b bits takes :math:`a b` bit-operations for each MAC (van Baalen et al. 2020, arXiv
2005.07093). Operands have 32 bits, except in the weight gradient of a layer with the attribute
``weight_gradient_bits``, and in pruning, which computes in 64 bits.

An update takes 2 MACs for each weight that learns with a sign optimizer (one average; a second is not counted), and
3 with any other (momentum, weight decay and step of SGD). All counts are whole numbers, so sums of them are exact.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..contracts import wants_pruned_gradients
from ..patterns import places_of_parameters
from ..pruners import get_masks

aten = torch.ops.aten
FLOAT_BITS = 32
SCORE_BITS = 64  # scores are computed in float64
ALMOST_ALL = Fraction(99, 100)  # a density at which a round has something to remove
SIGN_UPDATE, OTHER_UPDATE = 2, 3  # MACs for each weight of an optimizer's step
BY_SGD = {'gradient_bits': (FLOAT_BITS, FLOAT_BITS), 'sign_trained': False}


@dataclass(frozen=True)
class LayerCost:
    """One layer with a weight.

    Args:
        name: of the layer in the network.
        kind: its class.
        weight: shape of its weight.
        output: shape of its output for one image, without the batch.
        macs: of the forward pass for one image, dense.
        kept: weights that are not pruned; of another weight that the layer multiplies by, entries that are not 0.
        learning: weights that need a gradient and an update.
        gradient_bits: bits of the two operands of the weight gradient: input, output gradient.
        sign_trained: whether its weight belongs to a sign optimizer.
        tied_to: name of the parameter, in a layer that shares the weight of an earlier one; its weights are stored and
            updated there, and multiplied here once more.
    """

    name: str
    kind: str
    weight: tuple[int, ...]
    output: tuple[int, ...]
    macs: int
    kept: int
    learning: int
    gradient_bits: tuple[int, int] = (FLOAT_BITS, FLOAT_BITS)
    sign_trained: bool = False
    tied_to: str | None = None

    @property
    def parameter(self) -> str:
        """Name of its weight in the network; of a shared weight, that in the first layer which has it."""
        return self.tied_to or f'{self.name}.weight'.removeprefix('.')

    @property
    def total(self) -> int:
        """Number of weights, pruned ones included."""
        return math.prod(self.weight)

    @property
    def sparse_macs(self) -> int:
        """MACs of the forward pass for one image that multiply by a kept weight."""
        return self.macs * self.kept // self.total

    @property
    def gradient_macs(self) -> int:
        """MACs of the weight gradient for one image."""
        return self.macs * self.learning // self.total


@dataclass
class Work:
    """An amount of computation: MACs and bit-operations by phase."""

    macs: dict[str, int] = field(default_factory=dict)
    bit_operations: dict[str, int] = field(default_factory=dict)

    def add(self, phase: str, macs: int, bits: tuple[int, int] = (FLOAT_BITS, FLOAT_BITS)) -> None:
        """Count MACs whose operands have the given bits."""
        self.macs[phase] = self.macs.get(phase, 0) + macs
        self.bit_operations[phase] = self.bit_operations.get(phase, 0) + macs * bits[0] * bits[1]

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
        masks: parameter name -> bool tensor, True where the weight is kept; a weight without one is dense.
        sign_trained: names of the parameters that a sign optimizer owns.

    Returns:
        One entry for each layer; what functions outside of layers multiply (such as attention) is in the last entry,
        with the name '(functions)' and no weight, if there is any.
    """

    def note_shape(name: str, _layer: nn.Module, _inputs: tuple, output: Tensor) -> None:
        outputs.setdefault(name, tuple(output.shape[1:]))

    sign_trained = set(sign_trained)
    first_names = {parameter: places[0].full_name for parameter, places in places_of_parameters(network).items()}
    copied = copy.deepcopy(network).to('meta').eval()
    outputs: dict[str, tuple[int, ...]] = {}
    weights: dict[str, Tensor] = {}
    for name, layer in network.named_modules():
        weight = getattr(layer, 'weight', None)
        if isinstance(weight, Tensor) and weight.dim() > 1:
            weights[name] = weight
            copied.get_submodule(name).register_forward_hook(partial(note_shape, name))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        copied(torch.empty(1, *input_shape, device='meta'))
    counts = counter.get_flop_counts()
    root = type(copied).__name__
    rows = []
    for name, output in outputs.items():
        layer, own = network.get_submodule(name), f'{name}.weight'.removeprefix('.')
        first = first_names.get(weights[name], own)
        rows.append(
            LayerCost(
                name,
                kind=type(layer).__name__,
                weight=tuple(weights[name].shape),
                output=output,
                macs=sum(counts.get(f'{root}.{name}' if name else root, {}).values()) // 2,
                kept=0,  # counted below, as is what learns
                learning=0,
                gradient_bits=getattr(layer, 'weight_gradient_bits', (FLOAT_BITS, FLOAT_BITS)),
                sign_trained=first in sign_trained,
                tied_to=first if first != own else None,
            )
        )
    rows = count_weights(rows, network, masks)
    rest = counter.get_total_flops() // 2 - sum(row.macs for row in rows)
    return [*rows, LayerCost('(functions)', '', (), (), rest, kept=1, learning=1)] if rest else rows


@torch.no_grad()
def count_weights(
    layers: list[LayerCost], network: nn.Module, masks: Mapping[str, Tensor] | None = None
) -> list[LayerCost]:
    """Count again which weights are kept and which learn; everything else about the layers stays.

    Args:
        layers: of :func:`count_layers`, for the same network.
        network: whose weights are looked at.
        masks: as there.
    """
    masks = masks or {}
    rows = []
    for row in layers:
        if row.weight:
            layer, mask = network.get_submodule(row.name), masks.get(row.parameter)
            kept = row.total if mask is None else int(mask.sum())
            if hasattr(layer, 'used_weight'):
                used = layer.used_weight() != 0
                row = replace(row, kept=int((used if mask is None else used & mask).sum()), learning=kept)
            else:
                learning = row.total if wants_pruned_gradients(layer.weight) else kept
                row = replace(row, kept=kept, learning=learning if layer.weight.requires_grad else 0)
        rows.append(row)
    return rows


def step_work(layers: list[LayerCost], batch: int, steps: int = 1) -> Work:
    """Count training steps; see the module for the formulas.

    Args:
        layers: of :func:`count_layers`.
        batch: images of all these steps together.
        steps: how many updates.
    """
    work = Work()
    for index, layer in enumerate(layers):
        work.add('forward', batch * layer.sparse_macs)
        work.add('input gradient', batch * layer.sparse_macs if index else 0)
        work.add('weight gradient', batch * layer.gradient_macs, layer.gradient_bits)
        if layer.weight and not layer.tied_to:
            work.add('optimizer', steps * layer.learning * (SIGN_UPDATE if layer.sign_trained else OTHER_UPDATE))
    return work


def dense_sgd(layers: list[LayerCost]) -> list[LayerCost]:
    """The same layers, dense, trained by SGD with exact gradients."""
    return [replace(row, kept=row.total, learning=row.total, **BY_SGD) for row in layers]


def latent_signs(layers: list[LayerCost]) -> list[LayerCost]:
    """The same pruned layers, their signs trained by latent weights: exact gradients, and SGD on the latent weights."""
    return [replace(row, learning=row.kept, **BY_SGD) for row in layers]


def pruning_work(pruner, network: nn.Module, input_shape: tuple[int, ...], images: int) -> Work:
    """Count a pruning: the products of one round, counted by torch, times the rounds.

    Args:
        pruner: of :mod:`pab.pruners`; its rounds count as dense, as they are computed.
        network: unchanged; its masks do not count.
        input_shape: (C, H, W) of one image.
        images: how many a pruner that reads data is shown; one is run, and the count is multiplied.
    """
    work = Work()
    if 'network' not in pruner.asks:  # nothing is multiplied but scores
        work.add('pruning', 0, (SCORE_BITS, SCORE_BITS))
        return work
    network = copy.deepcopy(network)
    for mask in get_masks(network).values():
        mask.fill_(True)
    data = 'batches' in pruner.needs
    example = [(torch.ones(1, *input_shape), torch.zeros(1, dtype=torch.long))] if data else None
    one_round = copy.copy(pruner)
    plain = {'scope': 'global', 'allocation': 'uniform', 'min_per_tensor': 0}
    one_round.settings = replace(pruner.settings, rounds=1, density=ALMOST_ALL, **plain)
    counter = FlopCounterMode(display=False, custom_mapping={aten.convolution_backward: _backward_flops})

    def counted(**given):
        with counter:
            pruner.score(**given)
        raise _Counted  # no selection: its warnings would be those of a network that is pruned already

    one_round.score = counted
    with contextlib.suppress(_Counted):
        one_round.prune(network, example, input_shape=input_shape)
    macs = counter.get_total_flops() // 2 * (images if data else 1) * pruner.settings.rounds
    work.add('pruning', macs, (SCORE_BITS, SCORE_BITS))
    return work


class _Counted(Exception):
    """The score is computed, and nothing more is wanted."""


def _backward_flops(grad, x, weight, *_settings, out_shape) -> int:
    # torch's own formula counts the weight gradient of a grouped convolution once for each group
    wanted = sum(shape is not None for shape in out_shape[:2])
    return wanted * 2 * grad[0] * math.prod(grad[2:]) * math.prod(weight)


def saved_bytes(network: nn.Module, input_shape: tuple[int, ...]) -> float:
    """Bytes for each image that a forward pass in training keeps for the backward pass; parameters do not count."""
    network = copy.deepcopy(network).train()
    return bytes_kept_by(lambda: network(torch.rand(2, *input_shape)), network) / 2


def bytes_kept_by(forward: Callable[[], Tensor], network: nn.Module) -> int:
    """Bytes that a forward pass keeps for its backward pass: each storage once, none of the network's own tensors."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = forward()  # holds the graph, so no storage is used twice
    del output
    return sum(storages.values())
