"""One language to name parts of a network: ``prunable`` of pruners, ``owns`` of optimizers, ``layers`` of converters.

======================  ===================================================================================
``'Conv2d'``            what belongs to a layer of that type; a subclass is of the type too
``'Conv2d.weight'``     the parameter of that name of a layer of that type
``'name:layer1.*'``     what has a full name that fits the glob
``'!name:*.shortcut*'`` any of them behind a ``!``: leave out what it matches, whatever else matches it
======================  ===================================================================================
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

BY_NAME = 'name:'
LEAVE_OUT = '!'


class Patterns:
    """A list of patterns, asked about one part of a network after the other.

    Args:
        owner: who was given the list, such as 'Mag: prunable'; begins every message.
        patterns: a list of strings, at least one of them without ``!``.

    Raises:
        TypeError: it is a lone string, or holds something else than strings.
        ValueError: nothing in it selects anything.
    """

    def __init__(self, owner: str, patterns: Sequence[str]) -> None:
        if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
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
        """Whether the list selects a part: some pattern matches it, and none behind a ``!`` does.

        Args:
            layer: the layer, or the one that has the parameter.
            full_name: of the layer, or of the parameter, in the network.
            parameter: the parameter's own name, '' for a whole layer.
        """
        types = {cls.__name__ for cls in type(layer).__mro__}
        matching = [p for p in self.patterns if _matches(p.removeprefix(LEAVE_OUT), types, full_name, parameter)]
        self.unused.difference_update(matching)
        return bool(matching) and not any(pattern.startswith(LEAVE_OUT) for pattern in matching)


def _matches(pattern: str, types: set[str], full_name: str, parameter: str) -> bool:
    if pattern.startswith(BY_NAME):
        return fnmatchcase(full_name, pattern.removeprefix(BY_NAME))
    layer_type, _, own_name = pattern.partition('.')
    return layer_type in types and own_name in ('', parameter)
