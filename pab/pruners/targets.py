"""Which tensors of a model may be pruned, and in which order they are counted."""

from collections.abc import Iterable, Iterator

from torch import nn


def _weights_of(model: nn.Module, kinds: frozenset[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name of the weight, its layer) in module order; a weight shared by several layers counts for the first."""
    first: dict[int, tuple[str, nn.Module]] = {}
    matching = set()
    for prefix, module in model.named_modules():
        weight = module._parameters.get('weight')
        if weight is None or not weight.is_floating_point():
            continue
        first.setdefault(id(weight), (f'{prefix}.weight' if prefix else 'weight', module))
        if kinds & _kinds(module):
            matching.add(id(weight))
    yield from (found for key, found in first.items() if key in matching)


def _kinds(module: nn.Module) -> set[str]:
    return {cls.__name__ for cls in type(module).__mro__}


def prunable_layers(model: nn.Module, prunable: Iterable[str] = ('Conv2d',)) -> dict[str, nn.Module]:
    """Find the layers whose ``weight`` may be pruned.

    Args:
        model: any module tree.
        prunable: class names; a layer matches by its own class or one it derives from, so a subclass of ``Conv2d``
            matches ``'Conv2d'``.

    Returns:
        Name of the weight -> its layer, in module order. A weight that several layers share has the first one's name.

    Raises:
        ValueError: a name matches no layer with a floating point weight; the types in the model are listed.
    """
    prunable = tuple(prunable)
    found = dict(_weights_of(model, frozenset(prunable)))
    matched = {kind for kind in prunable if any(_weights_of(model, frozenset([kind])))}
    if lost := [kind for kind in prunable if kind not in matched]:
        present = sorted({type(m).__name__ for m in model.modules() if m._parameters.get('weight') is not None})
        raise ValueError(
            f'prunable: no layer of {type(model).__name__} with a weight is a {lost[0]!r}; '
            f'its layers with a weight are {", ".join(present) or "none"}'
        )
    return found


def classifier_weight(model: nn.Module, layers: dict[str, nn.Module]) -> str:
    """Name the weight of the classifier, the last Linear layer of the model.

    Args:
        model: the model that ``layers`` belongs to.
        layers: what :func:`prunable_layers` found.

    Raises:
        ValueError: there is no Linear layer, or its weight is not among ``layers``.
    """
    linear = [name for name, _ in _weights_of(model, frozenset(['Linear']))]
    if not linear or linear[-1] not in layers:
        found = f'the last Linear layer, {linear[-1]!r}, is not prunable' if linear else 'there is no Linear layer'
        raise ValueError(f"classifier_density: {found}; add 'Linear' to prunable or leave classifier_density at None")
    return linear[-1]
