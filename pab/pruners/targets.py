"""The tensors of a model that may be pruned, in the order in which they are counted."""

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
    return {name: places[0].layer for name, places in prunable_places(model, prunable).items()}


def prunable_places(model: nn.Module, prunable: Sequence[str]) -> dict[str, list[Place]]:
    """Full name of each weight that may be pruned -> all its places; see :func:`prunable_layers`."""
    patterns, found, present = Patterns('prunable', prunable), {}, set()
    for places in _weights(model):
        present.add(type(places[0].layer).__name__)
        if patterns.select_shared(places):
            found[places[0].full_name] = places
    if patterns.unused:
        raise ValueError(
            f'prunable: {min(patterns.unused)!r} matches no weight of {type(model).__name__} with two or more '
            f'dimensions; the layers with one are {", ".join(sorted(present)) or "none"}'
        )
    if not found:
        raise ValueError(f'prunable: {list(prunable)!r} leaves out every weight that it selects')
    return found


def _weights(model: nn.Module) -> Iterator[list[Place]]:
    """The places of every weight that can be prunable; never none."""
    for parameter, places in places_of_parameters(model).items():
        places = [place for place in places if place.own_name == 'weight']
        if places and parameter.is_floating_point() and parameter.dim() >= 2:
            yield places
