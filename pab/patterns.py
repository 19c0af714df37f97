"""One language to name parts of a network, for ``prunable`` and ``density`` of pruners, ``owns`` of optimizers,
``layers`` of converters and ``freeze`` of ImageClassifier.

======================  ===================================================================================
``'Conv2d'``            every layer of that type, or every parameter of one; a subclass is of the type too
``'Conv2d.weight'``     the parameter of that name of a layer of that type
``'name:layer1.*'``     every part with a full name that fits the glob
``'!name:*.shortcut*'`` any of these behind a ``!``: leaves its parts out, whatever else matches them
======================  ===================================================================================
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn

BY_NAME = 'name:'
LEAVE_OUT = '!'


class Place(NamedTuple):
    """The place of a parameter in a network."""

    layer: nn.Module
    full_name: str
    """In the network, such as 'layer1.0.conv1.weight'."""
    own_name: str
    """In its layer, such as 'weight'."""


def places_of_parameters(model: nn.Module) -> dict[nn.Parameter, list[Place]]:
    """Parameter -> its places, both in the model's order; a parameter that layers share has more than one."""
    places: dict[nn.Parameter, list[Place]] = {}
    for prefix, layer in model.named_modules(remove_duplicate=False):
        for own_name, parameter in layer.named_parameters(recurse=False, remove_duplicate=False):
            full_name = f'{prefix}.{own_name}' if prefix else own_name
            places.setdefault(parameter, []).append(Place(layer, full_name, own_name))
    return places


class Patterns:
    """A list of patterns, asked about one part of a network after the other.

    Args:
        owner: who was given the list, such as 'Mag: prunable'; begins every message.
        patterns: a list of strings, at least one of them without ``!``.

    Raises:
        TypeError: it is no list, or holds something else than strings.
        ValueError: nothing in it selects anything.
    """

    def __init__(self, owner: str, patterns: Sequence[str]) -> None:
        is_list = isinstance(patterns, Sequence) and not isinstance(patterns, str)
        if not is_list or not all(isinstance(pattern, str) for pattern in patterns):
            raise TypeError(f"{owner} must be a list of patterns such as ['Conv2d', '!name:head.*'], got {patterns!r}")
        if all(pattern.startswith(LEAVE_OUT) for pattern in patterns):
            raise ValueError(
                f"{owner} selects nothing, got {list(patterns)!r}; name what to take first: ['Conv2d', ...]"
            )
        self.owner = owner
        self.patterns = tuple(patterns)
        self.unused = set(patterns)
        """Patterns that have matched nothing so far."""

    def select(self, layer: nn.Module, full_name: str, parameter: str = '') -> bool:
        """True if the list selects a part: some pattern matches it, and none behind a ``!`` does.

        Args:
            layer: the layer, or the one that has the parameter.
            full_name: of the layer, or of the parameter, in the network.
            parameter: the parameter's own name, '' for a whole layer.
        """
        return self.select_shared([Place(layer, full_name, parameter)])

    def select_shared(self, places: Iterable[Place]) -> bool:
        """Select a parameter with several places: a pattern that matches one of them matches the parameter."""
        matching = {pattern for place in places for pattern in self.patterns if _matches(pattern, place)}
        self.unused -= matching
        return bool(matching) and not any(pattern.startswith(LEAVE_OUT) for pattern in matching)


def _matches(pattern: str, place: Place) -> bool:
    pattern = pattern.removeprefix(LEAVE_OUT)
    if pattern.startswith(BY_NAME):
        return fnmatchcase(place.full_name, pattern.removeprefix(BY_NAME))
    layer_type, _, own_name = pattern.partition('.')
    types = (cls.__name__ for cls in type(place.layer).__mro__)
    return own_name in ('', place.own_name) and layer_type in types
