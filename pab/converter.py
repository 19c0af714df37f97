"""The base of converters, which change layers of any network in place."""

import logging
from collections.abc import Mapping, Sequence
from typing import ClassVar

from mmengine.logging import print_log
from torch import nn
from torch.nn.parameter import is_lazy

from .patterns import LEAVE_OUT, Patterns


class Converter:
    """Make layers of any network layers of another class, in place.

    Only the class of a layer changes: parameter objects, names, hooks, buffers, state-dict keys and flags stay. A
    converter of one's own maps each class in ``classes`` to one derived from it, and registers itself in CONVERTERS; it
    defines :meth:`set_up` if its layers need more than their class. :mod:`pab.contracts` tells how to announce a
    special backward pass.

    A layer of another type, a subclass too, may compute something else and stays as it is. The log names such layers of
    the types in ``kin`` that have weights, unless ``layers`` leaves them out by a ``!``.

    Args:
        layers: a list of :mod:`pab.patterns`; None for every layer of a type in ``classes``.

    Raises:
        TypeError, ValueError: ``layers`` is no list of patterns, or selects nothing.
    """

    classes: ClassVar[Mapping[type[nn.Module], type[nn.Module]]] = {}
    kin: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)

    def __init__(self, layers: Sequence[str] | None = None) -> None:
        self.layers = layers
        self._patterns()  # a wrong list is refused here, before there is a network

    @property
    def types(self) -> str:
        """The layers that can be converted, for messages."""
        return f'layers of exactly the types {", ".join(plain.__name__ for plain in self.classes)}'

    @classmethod
    def adds_latents(cls) -> bool:
        """True if its layers have a used weight (:mod:`pab.contracts`), which a compact file holds merged."""
        return any(hasattr(converted, 'used_weight') for converted in cls.classes.values())

    def class_for(self, layer: nn.Module) -> type[nn.Module] | None:
        """The class that a layer gets, its own if it has been converted; None for one that cannot be converted."""
        own = type(layer)
        return own if own in self.classes.values() else self.classes.get(own)

    def set_up(self, layer: nn.Module, name: str) -> None:
        """Give a layer, just converted or converted again, its settings, and parameters if it needs more of them."""

    def __call__(self, network: nn.Module) -> nn.Module:
        """Convert a network (a bare layer, whose name is '', is one too) and return it.

        ValueError when a pattern matches no layer, or there is nothing to convert; nothing has changed then.
        """
        for name, (layer, new_class) in self._find(network).items():
            layer.__class__ = new_class
            self.set_up(layer, name)
        return network

    def _find(self, network: nn.Module) -> dict[str, tuple[nn.Module, type[nn.Module]]]:
        me = type(self).__name__
        if not isinstance(network, nn.Module):
            raise TypeError(f'{me}: network must be an nn.Module, got {type(network).__name__}')
        patterns = self._patterns()
        not_left_out = Patterns(me, ['name:*', *(p for p in patterns.patterns if p.startswith(LEAVE_OUT))])
        found, others = {}, []
        for name, layer in network.named_modules():
            new_class = self.class_for(layer)
            if new_class or _has_weights(layer):
                selected = patterns.select(layer, name)  # also for what is not converted: the pattern has a use
                if new_class and selected:
                    found[name] = layer, new_class
                elif not new_class and isinstance(layer, self.kin) and not_left_out.select(layer, name):
                    others.append(f'{name} ({type(layer).__name__})')
        if self.layers is not None and patterns.unused:
            raise ValueError(
                f'{me}: layers has patterns that match no layer with weights: {sorted(patterns.unused)}; correct or '
                f'drop them; only {self.types} are converted'
            )
        if not found:
            raise ValueError(
                f'{me}: {type(network).__name__} has nothing to convert: layers={list(patterns.patterns)} selects '
                f'no {self.types}; others are {", ".join(others) or "none"}'
            )
        if others:
            text = f'{me}: left alone, as they are no {self.types}: {", ".join(others)}. '
            text += 'A lazy layer gets its type when the network first runs'
            print_log(text, logger='current', level=logging.WARNING)
        return found

    def _patterns(self) -> Patterns:
        layers = [plain.__name__ for plain in self.classes] if self.layers is None else self.layers
        return Patterns(f'{type(self).__name__}: layers', layers)


def _has_weights(layer: nn.Module) -> bool:
    own = layer.named_parameters(recurse=False)
    return any('weight' in name and (is_lazy(param) or param.dim() > 1) for name, param in own)
