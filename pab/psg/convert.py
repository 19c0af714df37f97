"""Turn the layers of any network into PSG layers, in place; switch PSG off for a while."""

import warnings
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from ..registry import CONVERTERS
from .config import PSGConfig
from .layers import PSGConv2d, PSGLayer, PSGLinear
from .relu import ByteMaskReLU

PSG_CLASSES = {'Conv2d': (nn.Conv2d, PSGConv2d), 'Linear': (nn.Linear, PSGLinear)}
SignedRule = Mapping[str, bool] | Callable[[str, nn.Module], bool | None]


def convert_psg_(
    model: nn.Module,
    cfg: PSGConfig | None = None,
    *,
    layers: Sequence[str] = ('Conv2d',),
    input_signed: SignedRule | None = None,
    byte_mask_relu: bool = True,
) -> nn.Module:
    """Make every ``nn.Conv2d`` (or what ``layers`` names) of a network a PSG layer, in place, and return the network.

    Only the class of a layer changes: parameter objects, names, hooks, buffers, state-dict keys and flags stay. The
    input of the first PSG layer, in the order of ``model.named_modules()``, is signed and that of all others is not,
    unless ``input_signed`` says otherwise. Layers that are PSG already get the new settings. A subclass of
    ``nn.Conv2d`` or ``nn.Linear`` may compute something else and is left alone, with a warning that names it.

    Args:
        model: any module tree; a bare layer, whose name is '', is one too.
        cfg: the settings; None for the defaults of :class:`PSGConfig`.
        layers: some of 'Conv2d' and 'Linear'.
        input_signed: which layers read signed values: a dict from layer name to bool, or a function of (name, layer)
            that returns a bool, or None for the default.
        byte_mask_relu: also make every ``nn.ReLU`` a :class:`ByteMaskReLU`, which changes no number and lets the float
            activation between ReLU and PSG layer be freed.

    Raises:
        TypeError: ``model`` is no module, ``cfg`` no PSGConfig, or a sign no bool.
        ValueError: an unknown kind of layer, an unknown layer name in ``input_signed``, or nothing to convert.
    """
    cfg = PSGConfig() if cfg is None else cfg
    if not isinstance(model, nn.Module):
        raise TypeError(f'convert_psg_: model must be an nn.Module, got {type(model).__name__}')
    if not isinstance(cfg, PSGConfig):
        raise TypeError(f'convert_psg_: cfg must be a PSGConfig, got {cfg!r}; write PSGConfig(**cfg)')
    found = _find_layers(model, layers)
    signs = _input_signs(found, _first_psg_layer(model, found), input_signed)
    for name, (layer, psg_class) in found.items():
        layer.__class__ = psg_class
        layer._init_psg(cfg, signs[name])
    for module in model.modules() if byte_mask_relu else ():
        if type(module) is nn.ReLU:
            module.__class__ = ByteMaskReLU
    return model


def _find_layers(model: nn.Module, kinds: Sequence[str]) -> dict[str, tuple[nn.Module, type[PSGLayer]]]:
    if isinstance(kinds, str) or not kinds or set(kinds) - set(PSG_CLASSES):
        raise ValueError(
            f'convert_psg_: layers must be a sequence of names from {sorted(PSG_CLASSES)}, got {kinds!r}; '
            "for one kind write ('Conv2d',)"
        )
    found, left_alone = {}, []
    for name, module in model.named_modules():
        for plain_class, psg_class in (PSG_CLASSES[kind] for kind in kinds):
            if type(module) in (plain_class, psg_class):
                found[name] = module, psg_class
            elif isinstance(module, plain_class):
                left_alone.append(f'{name} ({type(module).__name__})')
    if left_alone:
        warnings.warn(
            f'convert_psg_: left alone, because a subclass may compute something else: {", ".join(left_alone)}',
            stacklevel=3,
        )
    if not found:
        raise ValueError(
            f'convert_psg_: {type(model).__name__} has nothing to convert: no layer of the kinds {tuple(kinds)!r}; '
            f'known kinds are {sorted(PSG_CLASSES)}'
        )
    return found


def _first_psg_layer(model: nn.Module, found: Mapping[str, object]) -> str:
    return next(name for name, module in model.named_modules() if name in found or isinstance(module, PSGLayer))


def _input_signs(found: Mapping, first: str, rule: SignedRule | None) -> dict[str, bool]:
    signs = {name: name == first for name in found}
    if isinstance(rule, Mapping):
        unknown = sorted(set(rule) - set(found))
        if unknown:
            raise ValueError(
                f'convert_psg_: input_signed names layers that are not converted: {unknown}; known are {list(found)}'
            )
        signs.update(rule)
    elif callable(rule):
        chosen = {name: rule(name, layer) for name, (layer, _) in found.items()}
        signs.update({name: sign for name, sign in chosen.items() if sign is not None})
    elif rule is not None:
        raise TypeError(
            f'convert_psg_: input_signed must be a dict of layer name to bool, a function or None, got {rule!r}'
        )
    for name, sign in signs.items():
        if not isinstance(sign, bool):
            raise TypeError(f'convert_psg_: input_signed of layer {name!r} must be True or False, got {sign!r}')
    return signs


@CONVERTERS.register_module(name='PSG')
class PSGConverter:
    """Make a network's layers PSG layers: :func:`convert_psg_` as a config names it.

    Args:
        layers, input_signed, byte_mask_relu: as in :func:`convert_psg_`.
        **settings: the fields of :class:`PSGConfig`.
    """

    def __init__(
        self,
        layers: Sequence[str] = ('Conv2d',),
        input_signed: SignedRule | None = None,
        byte_mask_relu: bool = True,
        **settings,
    ):
        unknown = sorted(set(settings) - set(PSGConfig.__dataclass_fields__))
        if unknown:
            raise TypeError(f'PSG: unknown settings {unknown}; known are {sorted(PSGConfig.__dataclass_fields__)}')
        self.config = PSGConfig(**settings)
        self.options = dict(layers=layers, input_signed=input_signed, byte_mask_relu=byte_mask_relu)

    def __call__(self, model: nn.Module) -> nn.Module:
        return convert_psg_(model, self.config, **self.options)
