"""The tensors of a model that may be pruned, in the order in which they are counted."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ..patterns import Patterns, Place, places_of_parameters


def prunable_layers(model: nn.Module, prunable: Sequence[str] = ('Conv2d',)) -> dict[str, nn.Module]:
    """Full name of each weight that may be pruned -> its layer, in the model's order.

    Only a floating point parameter of two or more dimensions with ``weight`` in its own name (``weight``,
    ``weight_hh_l0``, ``in_proj_weight``) can be: a pattern over names takes no scale of a BatchNorm layer along. A
    weight that layers share has the first one's name.

    Args:
        model: any module tree.
        prunable: patterns (:mod:`pab.patterns`): ``['Conv2d', 'Linear', '!name:*.downsample.*']``.

    Raises:
        TypeError: ``prunable`` is no list of strings.
        ValueError: a pattern matches no such weight, those behind a ``!`` leave nothing, or a weight that is selected
            is sharded (FSDP2) or computed from other parameters (a parametrization such as weight_norm,
            torch.nn.utils.prune).
    """
    return {name: places[0].layer for name, places in prunable_places(model, prunable).items()}


def prunable_places(model: nn.Module, prunable: Sequence[str]) -> dict[str, list[Place]]:
    """Full name of each weight that may be pruned -> all its places; see :func:`prunable_layers`."""
    patterns, found, present = Patterns('prunable', prunable), {}, set()
    for places in _weights(model):
        present.add(type(places[0].layer).__name__)
        if patterns.select_shared(places):
            refuse_sharded(places[0].full_name, getattr(places[0].layer, places[0].own_name))
            found[places[0].full_name] = places
    for place in _computed_weights(model):
        if patterns.select_shared([place]):
            raise ValueError(
                f'prunable: {place.full_name!r} is no parameter but computed from others (weight_norm, another '
                'parametrization or torch.nn.utils.prune), so masks on it would not hold; undo that first, or add '
                f"'!name:{place.full_name}' to prunable"
            )
    if patterns.unused:
        raise ValueError(
            f'prunable: {min(patterns.unused)!r} matches no weight of {type(model).__name__} with two or more '
            f'dimensions; the layers with one are {", ".join(sorted(present)) or "none"}'
        )
    if not found:
        raise ValueError(f'prunable: {list(prunable)!r} leaves out every weight that it selects')
    return found


def refuse_sharded(name: str, weight: Tensor) -> None:
    """Raise a ValueError for a weight of which this process has only a part (a DTensor, as FSDP2 makes them)."""
    if hasattr(weight, 'placements'):
        raise ValueError(f'masks: {name!r} is sharded; prune the network, or set its masks, before fully_shard')


def _weights(model: nn.Module) -> Iterator[list[Place]]:
    """The places of every weight that can be prunable; never none."""
    computed = {(place.layer, place.own_name) for place in _computed_weights(model)}
    for parameter, places in places_of_parameters(model).items():
        sources = [p for p in places for layer, name in computed if p.layer is layer and p.own_name.startswith(name)]
        places = [place for place in places if 'weight' in place.own_name and place not in sources]
        if places and parameter.is_floating_point() and parameter.dim() >= 2:
            yield places


def _computed_weights(model: nn.Module) -> Iterator[Place]:
    """The places of tensors that stand where a weight was, made anew from other parameters for every forward pass."""
    for prefix, layer in model.named_modules():
        names = list(layer.parametrizations) if is_parametrized(layer) else []
        names += [name for name, value in vars(layer).items() if isinstance(value, Tensor)]
        for name in names:
            if 'weight' in name:
                yield Place(layer, f'{prefix}.{name}'.removeprefix('.'), name)
