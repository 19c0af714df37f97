"""The network as scores see it: float64, evaluation mode, exact gradients; the model itself stays as it was."""

import contextlib
import random
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..contracts import exact_gradients
from ..state_dicts import MASK
from .blocked import find_blocked, find_cuts, find_overflow
from .flow import KeepFlow, fill_zero_weight, is_layer_scale
from .inputs import DISCRETE, IGNORED

Tensors = dict[str, Tensor]  # by parameter name


class ScoringNetwork:
    """Call a model with float64 copies of its parameters and buffers, some of them replaced.

    ``network(weights, images)`` returns what the model does, such as logits, float64 of shape (N, K). It is
    differentiable with respect to ``weights``, float64 tensors by parameter name, 0 where pruned; whatever they lack
    comes from the copies.

    Args:
        model: called as ``model(images)``, or by keywords for a dict of images.
        given: names of parameters that every call names, so that no copy of them is kept.
    """

    def __init__(self, model: nn.Module, given: Collection[str] = ()):
        self._model = model
        self._names = _names_of_tensors(model)
        self._tensors = {
            names[0]: tensor.detach().to(torch.float64 if tensor.is_floating_point() else tensor.dtype, copy=True)
            for tensor, names in self._names.items()
            if names[0] not in given
        }
        self._layer_scales = {
            names[0]
            for tensor, names in self._names.items()
            if isinstance(tensor, nn.Parameter) and is_layer_scale(names[0], tensor)
        }
        self._last: tuple | None = None

    def __call__(self, weights: Tensors, images: Tensor, absolute: bool = False, keep_flow: bool = False) -> Tensor:
        """Return the logits.

        Args:
            weights, images: as above.
            absolute: those of the network of absolute parameters and buffers.
            keep_flow: with the stand-ins of :mod:`pab.pruners.flow`.
        """
        self._last = weights, images, absolute, keep_flow
        others = self._tensors
        if absolute:
            others = {name: tensor.abs() if tensor.is_floating_point() else tensor for name, tensor in others.items()}
        if keep_flow:
            others = {name: fill_zero_weight(name, w, others.get(name + MASK)) for name, w in others.items()}
            others.update((name, torch.ones_like(others[name])) for name in self._layer_scales & others.keys())
        tensors = {**others, **weights}
        # Each layer once: functional_call would put back a layer with two names in the wrong order.
        every = {name: tensors[names[0]] for names in self._names.values() for name in names}
        with KeepFlow() if keep_flow else contextlib.nullcontext():
            arguments = ((), dict(images)) if isinstance(images, Mapping) else ((images,), {})
            try:
                return functional_call(self._model, every, *arguments, tie_weights=False)
            except IndexError as error:
                self._check_ids(images)
                raise error

    def _check_ids(self, inputs: Tensor | Mapping[str, Tensor]) -> None:
        """Raise a ValueError that compares token ids with what the embeddings have, if there are such."""
        named = inputs.items() if isinstance(inputs, Mapping) else [('inputs', inputs)]
        ids = {name: ids for name, ids in named if ids.dtype in DISCRETE}
        got = [f'{name} {int(x.min())} to {int(x.max())}, {tuple(x.shape)}' for name, x in ids.items()]
        tables = {name: getattr(layer, 'num_embeddings', 0) for name, layer in self._model.named_modules()}
        known = ', '.join(f'{name} 0 to {number - 1}' for name, number in tables.items() if number)
        if ids and known:
            raise ValueError(
                f'batches: an index is out of range of an embedding: got {"; ".join(got)}, and the network has {known};'
                ' give ids, and a length of the input, that it knows'
            )

    def blocked(self) -> str:
        """Say which layers, and functions outside of layers, let no gradient through in the last call."""
        weights, images, absolute, keep_flow = self._last
        if isinstance(images, Tensor) and images.is_floating_point():
            images = images.detach().requires_grad_()  # so that the first layer is looked at too
        if found := find_blocked(self._model, lambda: self(weights, images, absolute, keep_flow)):
            return f'nothing passes {", ".join(dict.fromkeys(found))}'
        if found := find_cuts(self._model, lambda: self(weights, images, absolute)):  # stand-ins cut, too
            return f'the gradient ends at {", ".join(dict.fromkeys(found))}'
        return 'no gradient of the outputs reaches these weights'

    def forget(self) -> None:
        """Let the last call go, with the memory of its weights."""
        self._last = None

    def overflow(self) -> str | None:
        """Name the first layer with an output that is not finite in the last call, None if there is none."""
        return find_overflow(self._model, lambda: self(*self._last))


def _names_of_tensors(model: nn.Module) -> dict[Tensor, list[str]]:
    """Parameter or buffer -> its names, one for each layer that has it; the first is that of the state dict."""
    names: dict[Tensor, list[str]] = {}
    for prefix, layer in model.named_modules():
        own = (layer.named_parameters, layer.named_buffers)
        for key, tensor in (item for named in own for item in named(recurse=False, remove_duplicate=False)):
            names.setdefault(tensor, []).append(f'{prefix}.{key}'.removeprefix('.'))
    return names


def cross_entropy(outputs: Any, labels: Tensor, temperature: float = 1) -> Tensor:
    """The mean cross-entropy of logits divided by a temperature; a TypeError for outputs that are no tensor."""
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f'loss: cross-entropy needs logits, a tensor (N, K), but the model returns a {type(outputs).__name__}; '
            'give prune(..., loss=...) a function of (outputs, labels)'
        )
    if not labels.is_floating_point() and outputs.dim() > 1:
        counted, number = labels[labels != IGNORED], outputs.shape[1]
        if len(counted) and not (counted.min() >= 0 and counted.max() < number):
            got = f'{int(counted.min())} to {int(counted.max())}'
            raise ValueError(f'batches: labels must lie in [0, {number}), the number of outputs, got {got}')
    return F.cross_entropy(outputs / temperature, labels)


def gradients(output: Tensor, leaves: Tensors, create_graph: bool = False) -> Tensors:
    """Differentiate a scalar with respect to every leaf; zeros for a leaf that the output does not depend on."""
    if not output.requires_grad:  # a layer has cut the graph
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    grads = torch.autograd.grad(output, list(leaves.values()), create_graph=create_graph, materialize_grads=True)
    return dict(zip(leaves, grads, strict=True))


def as_leaves(weights: Tensors) -> Tensors:
    """Return tensors with the same memory that ask for a gradient."""
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}


@contextlib.contextmanager
def scoring_mode(model: nn.Module, seed: int) -> Iterator[None]:
    """Evaluation mode, exact gradients, random numbers fixed by ``seed``; all of it is put back, also on an error.

    Inside, gradients are recorded, autocast is off and nothing is compiled, whatever the caller had set.
    """
    device = next((p.device for p in model.parameters()), torch.device('cpu'))
    on_gpu = device.type == 'cuda'
    flags = [(module, module.training) for module in model.modules()]
    states = random.getstate(), np.random.get_state()
    with (
        torch.random.fork_rng([device] if on_gpu else []),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.compiler.set_stance('force_eager'),
        sdpa_kernel(SDPBackend.MATH),  # the only attention that has a second derivative
        exact_gradients(model),
    ):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach devices that are not put back
            if on_gpu:
                torch.cuda.manual_seed(seed)
            for module, _ in flags:  # one by one: a model's own train() may refuse, or do more than set a flag
                module.training = False
            yield
        finally:
            for module, training in flags:
                module.training = training
            random.setstate(states[0])
            np.random.set_state(states[1])
