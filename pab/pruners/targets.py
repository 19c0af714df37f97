"""Which tensors of a model may be pruned, and in which order they are counted."""

from collections.abc import Iterator, Sequence

from torch import nn

from ..patterns import Patterns, Place, places_of_parameters


def prunable_layers(model: nn.Module, prunable: Sequence[str] = ('Conv2d',)) -> dict[str, nn.Module]:
    """Full name of each weight that may be pruned -> its layer, in the model's order.

    Only a floating point parameter called ``weight`` of two or more dimensions can be: a pattern over names takes no
    scale of a BatchNorm layer along. A weight that layers share has the first one's name.

    Args:
        model: any module tree.
        prunable: patterns (:mod:`pab.patterns`): ``['Conv2d', 'Linear', '!name:*.downsample.*']``.

    Raises:
        TypeError: ``prunable`` is no list of strings.
        ValueError: a pattern matches no such weight, or those behind a ``!`` leave nothing.
    """
    patterns, found, present = Patterns('prunable', prunable), {}, set()
    for places in _weights(model):
        present.add(type(places[0].layer).__name__)
        if patterns.select_shared(places):
            found[places[0].full_name] = places[0].layer
    if patterns.unused:
        raise ValueError(
            f'prunable: {min(patterns.unused)!r} matches no weight of {type(model).__name__} with two or more '
            f'dimensions; the layers with one are {", ".join(sorted(present)) or "none"}'
        )
    if not found:
        raise ValueError(f'prunable: {list(prunable)!r} leaves out every weight that it selects')
    return found


def classifier_weight(model: nn.Module, prunable: Sequence[str], num_classes: int | None) -> str:
    """Name the weight of the classifier, the Linear layer with ``num_classes`` outputs.

    Args:
        prunable: names of the prunable weights.
        num_classes: None where it is not known; then every Linear layer may be the classifier.

    Raises:
        ValueError: there is no such layer, or more than one, or it is not prunable.
    """
    outputs = {p[0].full_name: len(p[0].layer.weight) for p in _weights(model) if isinstance(p[0].layer, nn.Linear)}
    fitting = [name for name, count in outputs.items() if num_classes in (None, count)]
    which = 'Linear layer' if num_classes is None else f'Linear layer with {num_classes} outputs, the number of classes'
    if len(fitting) != 1:
        listed = ', '.join(f'{name} with {count} outputs' for name, count in outputs.items()) or 'none'
        hint = '' if num_classes else '; give num_classes or input_shape to tell them apart'
        raise ValueError(
            f'classifier_density: the classifier must be the only {which}, but there are {len(fitting)}; '
            f'the Linear layers are: {listed}{hint}; or leave classifier_density at None'
        )
    if fitting[0] not in prunable:
        raise ValueError(
            f"classifier_density: the only {which}, {fitting[0]!r}, is not prunable; add 'Linear' to prunable or leave "
            'classifier_density at None'
        )
    return fitting[0]


def _weights(model: nn.Module) -> Iterator[list[Place]]:
    """The places of every weight that can be prunable; never none."""
    for parameter, places in places_of_parameters(model).items():
        places = [place for place in places if place.own_name == 'weight']
        if places and parameter.is_floating_point() and parameter.dim() >= 2:
            yield places
