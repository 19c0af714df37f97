"""The channels that a network needs, found on the graph of ``torch.export``.

Tensors that operations add, normalise or activate channel by channel form a *group*: a channel leaves all of them or
none. A residual stream is such a group. A channel is needed if something reads it whose own output is needed, from the
logits backwards. A layer does not read a channel that

- no needed output has a weight for, or
- is 0 for every image and at every position, or
- is another constant there, and the layer has no padding (a 1x1 convolution, a linear layer): then the constant times
  the weights goes into the layer's bias. Beside padding a constant makes other sums at the border than inside, so the
  channel stays.

For training, where shifts and weights change, a mask alone says that there is no weight, and 0 is the only constant.
A layer with a special backward pass reads every channel that is not 0 throughout: PSG's scale of the input, and the
largest entry of its weight gradient, see channels without a kept weight as well. A channel that nothing needs learns no
shift, so behind a filter without kept weights it is 0 if its BatchNorm's shift is 0 now.

Groups that an unknown operation reads or writes (concatenation, attention, a product of tensors, a grouped convolution
that is not depthwise, a weight with two uses), images and logits stay whole, and each group keeps a channel at least,
in training two.
"""

import copy
import math
import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..contracts import exact_gradients, special_layers
from ..state_dicts import MASK

IDENTITIES = {'alias', 'clone', 'contiguous', 'detach', 'detach_'}
RESHAPES = {'flatten', 'view', 'reshape', '_unsafe_view', 'squeeze', 'unsqueeze'}
# one number to one number; 'relu_' and such have become these
ACTIVATIONS = {'relu', 'relu6', 'hardtanh', 'leaky_relu', 'elu', 'gelu', 'silu', 'mish', 'sigmoid', 'tanh', 'softplus'}
ACTIVATIONS |= {'hardswish', 'hardsigmoid', 'clamp', 'clamp_min'}
POOLS = {'max_pool2d', 'avg_pool2d', 'adaptive_avg_pool2d', 'mean'}
TRAINING = '_native_batch_norm_legit_functional'
BATCH_NORMS = {'_native_batch_norm_legit_no_training', TRAINING}
CONVOLUTIONS = {'conv1d', 'conv2d', 'conv3d'}
LAYERS = (_ConvNd, nn.Linear, _BatchNorm)


@dataclass(frozen=True)
class Cut:
    """The part of a layer that stays; indices are int64, in ascending order.

    Args:
        outputs: of the first dimension of its tensors.
        inputs: of the second dimension of its weight; None where it has no other input channels than output channels.
        shift: (len(outputs),) float64 that its bias grows by; None for nothing.
    """

    outputs: Tensor
    inputs: Tensor | None = None
    shift: Tensor | None = None


@dataclass
class _Flow:
    """What is known of one tensor (N, C * repeats, ...)."""

    group: int
    repeats: int  # entries of each channel in dimension 1, behind a flatten
    # (2, C) float64: the value of a channel that has one for all images and positions, else NaN. In the second row that
    # of a training as long as nothing needs the channel.
    constants: Tensor


@dataclass
class _Layer:
    """A convolution or a linear layer between two groups."""

    name: str
    input: _Flow
    output: _Flow
    reads: Tensor  # (outputs, C) bool: there is a weight
    sums: Tensor  # (outputs, C) float64: of the weights
    foldable: Tensor  # (C,) bool: the channel is a constant, and nothing is lost without it


def find_cuts(
    network: nn.Module, input_shape: tuple[int, ...], masks: Mapping[str, Tensor] | None = None, multiple: int = 1
) -> dict[str, Cut]:
    """Find what stays of every convolution, linear layer and BatchNorm that can be smaller.

    Args:
        network: images (N, *input_shape) -> logits; unchanged.
        input_shape: (C, H, W) of one image, for the trace; the result holds for all sizes.
        masks: None asks about the network as it is, in evaluation. Masks, by parameter name, ask about all networks
            that its training under these masks can lead to.
        multiple: what gets smaller keeps a multiple of so many channels, the first of those without need.

    Returns:
        Name of a layer -> its cut. Layers that stay whole have none.

    Raises:
        ValueError: torch.export cannot follow the network.
    """
    return _Graph(network, input_shape, masks).cuts(multiple)


class _Graph:
    def __init__(self, network: nn.Module, input_shape: tuple[int, ...], masks: Mapping[str, Tensor] | None) -> None:
        self.network, self.masks = network, masks
        self.flows: dict[Node, _Flow] = {}
        self.parents: list[int] = []  # of a group: one that it is part of
        self.sizes: list[int] = []
        self.whole: set[int] = set()
        self.layers: list[_Layer] = []
        # input and output group of a layer, and the channels (C,) that change its gradients without a kept weight
        self.seen: list[tuple[int, int, Tensor]] = []
        self.members: dict[str, int] = {}  # BatchNorm or depthwise convolution -> its group
        self.special = {name for name, layer in special_layers(network) if masks is not None and not layer.exact}
        owners = [module for _, module in network.named_modules(remove_duplicate=False)]
        self.places = Counter(id(t) for m in owners for t in (*m._parameters.values(), *m._buffers.values()))
        program = _trace(network, input_shape, training=masks is not None)
        signature = program.graph_signature
        self.names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        for node in program.graph.nodes:
            inputs = [other for other in node.all_input_nodes if other in self.flows]
            if node.op == 'placeholder':
                if node.name in signature.user_inputs:
                    self._keep_whole(node)
            elif node.op == 'output' or (inputs and not self._known(node)):
                for other in inputs:
                    self.whole.add(self._root(self.flows[other].group))
                if node.op != 'output':
                    self._keep_whole(node)

    def cuts(self, multiple: int) -> dict[str, Cut]:
        needed = self._needed()
        for keep in needed.values():  # nothing that is needed reads the others, so their values do not matter
            keep[(~keep).nonzero().flatten()[: -int(keep.sum()) % multiple]] = True
            if self.masks is not None and keep.sum() == 1:  # one looks like an optimizer's state for all channels
                keep[(~keep).nonzero().flatten()[:1]] = True
        stays = {group: keep.nonzero().flatten() for group, keep in needed.items()}
        cuts = {}
        for name, group in self.members.items():
            if not needed[self._root(group)].all():
                cuts[name] = Cut(stays[self._root(group)])
        for layer in self.layers:
            source, target = self._root(layer.input.group), self._root(layer.output.group)
            keep = needed[source]
            if keep.all() and needed[target].all():
                continue
            constant = torch.where(keep, 0, layer.input.constants[0]).nan_to_num()
            shift = (layer.sums @ constant)[stays[target]] if self.masks is None else torch.zeros(())
            repeats = layer.input.repeats
            entries = (stays[source][:, None] * repeats + torch.arange(repeats)).flatten()
            cuts[layer.name] = Cut(stays[target], entries, shift if shift.any() else None)
        return cuts

    def _needed(self) -> dict[int, Tensor]:
        """Group -> (C,) bool, the least solution: what only feeds itself is not needed."""
        roots = {self._root(group) for group in range(len(self.sizes))}
        whole = {self._root(group) for group in self.whole}
        needed = {group: torch.full((self.sizes[group],), group in whole) for group in roots}
        while True:
            before = sum(int(keep.sum()) for keep in needed.values())
            for layer in reversed(self.layers):
                rows = needed[self._root(layer.output.group)]
                needed[self._root(layer.input.group)] |= layer.reads[rows].any(0) & ~layer.foldable
            for source, target, seen in self.seen:
                needed[self._root(source)] |= seen & needed[self._root(target)].any()
            if before == sum(int(keep.sum()) for keep in needed.values()):
                empty = [keep for keep in needed.values() if not keep.any()]
                if not empty:
                    return needed
                for keep in empty:  # torch has no layers without channels
                    keep[0] = True

    def _known(self, node: Node) -> bool:
        """Follow an operation that works channel by channel, or a layer; False for any other."""
        if node.target is operator.getitem:  # of the tuple that a BatchNorm returns; behind the output are statistics
            return self._continue(node, node.args[0]) if node.args[1] == 0 else True
        name = node.target._schema.name.removeprefix('aten::')
        given = _arguments(node)
        source = given.get('self', given.get('input'))
        if source not in self.flows or not isinstance(node.meta.get('val'), Tensor | tuple | list):
            return False
        if name in CONVOLUTIONS | {'linear'} | BATCH_NORMS:
            layer = self._layer(given)
            if layer is None:
                return False
            return (self._batch_norm if name in BATCH_NORMS else self._product)(node, source, layer, given)
        if len(node.all_input_nodes) == 2 and name == 'add':
            return self._sum(node, given)
        if len(node.all_input_nodes) != 1:
            return False
        constants, shape, new = self.flows[source].constants, source.meta['val'].shape, _shape(node)
        if name in IDENTITIES:
            return self._continue(node, source)
        if name in ACTIVATIONS:
            arguments = [constants if arg is source else arg for arg in node.args]
            return self._continue(
                node, source, torch.where(constants.isnan(), constants, node.target(*arguments, **node.kwargs))
            )
        if name in POOLS and len(shape) == 4:
            if name == 'mean' and not (given.get('dim') and all(dim % len(shape) >= 2 for dim in given['dim'])):
                return False
            if name == 'avg_pool2d' and (
                any(given['padding']) or given['divisor_override']
            ):  # zeros at the border count
                constants = torch.where(constants == 0, constants, math.nan)
            return self._continue(node, source, constants)
        if name in RESHAPES and new[0] == shape[0]:
            if len(new) > 1 and new[1] == shape[1]:
                return self._continue(node, source)
            if len(new) == 2 and new[1] == math.prod(shape[1:]):
                return self._continue(node, source, repeats=math.prod(shape[2:]))
        return False

    def _continue(self, node: Node, source: Node, constants: Tensor | None = None, repeats: int = 1) -> bool:
        flow = self.flows[source]
        self.flows[node] = _Flow(flow.group, flow.repeats * repeats, flow.constants if constants is None else constants)
        return True

    def _sum(self, node: Node, given: dict) -> bool:
        a, b = given['self'], given['other']
        if b not in self.flows or len(_shape(a)) != len(_shape(b)) or _shape(a)[1] != _shape(b)[1]:
            return False
        first, second = self.flows[a], self.flows[b]
        if first.repeats != second.repeats:
            return False
        self._join(first.group, second.group)
        return self._continue(node, a, first.constants + given['alpha'] * second.constants)

    def _batch_norm(self, node: Node, source: Node, name: str, given: dict) -> bool:
        flow, layer = self.flows[source], self.network.get_submodule(name)
        if flow.repeats != 1:
            return False
        constant, resting = torch.full_like(flow.constants, math.nan)
        if node.target._schema.name.endswith(TRAINING):  # each batch loses its mean
            shift = layer.bias.double().cpu() if layer.affine else torch.zeros_like(resting)
            resting = torch.where(flow.constants[1].isnan(), math.nan, shift)
        if self.masks is None and layer.running_mean is not None:
            mean, var = layer.running_mean.double().cpu(), layer.running_var.double().cpu()
            constant = (flow.constants[0] - mean) / (var + given['eps']).sqrt()
            if layer.affine:
                constant = constant * layer.weight.double().cpu() + layer.bias.double().cpu()
        self.members[name] = flow.group
        return self._continue(node, source, torch.stack([constant, resting]).detach())

    @torch.no_grad()
    def _product(self, node: Node, source: Node, name: str, given: dict) -> bool:
        flow, layer = self.flows[source], self.network.get_submodule(name)
        is_linear, groups = isinstance(layer, nn.Linear), given.get('groups', 1)
        depthwise = groups > 1 and groups == len(flow.constants[0]) == len(layer.weight)
        if (
            (groups > 1 and not depthwise)
            or (flow.repeats > 1 and not is_linear)
            or (is_linear and len(_shape(node)) > 2)
        ):
            return False
        channels = 1 if depthwise else len(flow.constants[0])
        weight = layer.weight.double().cpu().reshape(len(layer.weight), channels, -1)  # (O, C, positions)
        mask = (self.masks or {}).get(f'{name}.weight'.removeprefix('.'))
        reads = (weight != 0) if self.masks is None else torch.ones_like(weight, dtype=torch.bool)
        reads = (reads if mask is None else mask.cpu().reshape(weight.shape)).any(2)
        sums, padding = weight.sum(2), given.get('padding', 0)
        pads = isinstance(padding, str) or any(padding) if not is_linear else False
        foldable = flow.constants[0] == 0
        if self.masks is None and not pads:
            foldable = ~flow.constants[0].isnan()
        constant, varies = torch.where(foldable, flow.constants[0], 0), ~foldable
        bias = torch.zeros(len(weight), dtype=torch.float64)
        if layer.bias is not None:
            bias = layer.bias.double().cpu() if self.masks is None else torch.full_like(bias, math.nan)
        if depthwise:
            varies, total = reads[:, 0] & varies, sums[:, 0] * constant
        else:
            varies, total = (reads & varies).any(1), sums @ constant
        resting = torch.zeros_like(bias) if layer.bias is None else layer.bias.double().cpu()
        resting = torch.where(reads.any(1), math.nan, resting)
        output = torch.stack([torch.where(varies, math.nan, total + bias), resting])
        if depthwise:
            self.members[name] = flow.group
            self._continue(node, source, output)
        else:
            self.flows[node] = _Flow(self._new_group(len(weight)), 1, output)
            self.layers.append(_Layer(name, flow, self.flows[node], reads, sums, foldable))
        if name in self.special:
            self.seen.append((flow.group, self.flows[node].group, flow.constants[1] != 0))
        return True

    def _layer(self, given: dict) -> str | None:
        """The name of the layer whose tensors an operation reads, if nothing else reads or computes them."""
        nodes = [(own, given.get(own)) for own in ('weight', 'bias', 'running_mean', 'running_var')]
        nodes = [(own, node) for own, node in nodes if node is not None]
        names = [self.names.get(node.name, '').rpartition('.') for _, node in nodes if isinstance(node, Node)]
        if len({at for at, _, _ in names}) != 1 or [own for _, _, own in names] != [own for own, _ in nodes]:
            return None
        name, layer = names[0][0], self.network.get_submodule(names[0][0])
        tensors = {own: tensor for own, tensor in (layer._parameters | layer._buffers).items() if tensor is not None}
        known = {'num_batches_tracked', *(own for own, _ in nodes), *(own + MASK for own, _ in nodes)}
        alone = all(len(node.users) == 1 and self.places[id(tensors.get(own))] == 1 for own, node in nodes)
        return name if isinstance(layer, LAYERS) and tensors.keys() <= known and alone else None

    def _keep_whole(self, node: Node) -> None:
        if isinstance(value := node.meta.get('val'), Tensor) and value.dim() > 1:
            group = self._new_group(value.shape[1])
            self.whole.add(group)
            self.flows[node] = _Flow(group, 1, torch.full((2, value.shape[1]), math.nan, dtype=torch.float64))

    def _new_group(self, size: int) -> int:
        self.parents.append(len(self.sizes))
        self.sizes.append(size)
        return len(self.sizes) - 1

    def _root(self, group: int) -> int:
        while self.parents[group] != group:
            group = self.parents[group]
        return group

    def _join(self, a: int, b: int) -> None:
        self.parents[self._root(a)] = self._root(b)


def _trace(network: nn.Module, input_shape: tuple[int, ...], training: bool) -> torch.export.ExportedProgram:
    """The graph of a network, without operations that change a tensor in place."""
    copied = copy.deepcopy(network).cpu().float().train(training)
    for layer in copied.modules():
        if isinstance(layer, _BatchNorm) and layer.momentum is None:
            layer.momentum = 0.1  # the graph is the same, and an average over all batches divides by a counter
    try:
        with exact_gradients(copied), torch.random.fork_rng(devices=[]):
            example = torch.zeros(2, *input_shape)
            return torch.export.export(copied, (example,), strict=False).run_decompositions({})
    except Exception as error:  # torch has no common class for what it cannot trace
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f'narrow: torch.export cannot follow {type(network).__name__} on images of shape {tuple(input_shape)}: '
            f'{reason}'
        ) from error


def _arguments(node: Node) -> dict:
    """The arguments of an operation by their names, defaults included."""
    parameters = node.target._schema.arguments
    given = {parameter.name: parameter.default_value for parameter in parameters if parameter.has_default_value()}
    return given | {p.name: arg for p, arg in zip(parameters, node.args, strict=False)} | node.kwargs


def _shape(node: Node) -> torch.Size:
    value = node.meta['val']
    return (value[0] if isinstance(value, tuple | list) else value).shape
