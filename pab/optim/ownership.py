"""Which parameter belongs to which optimizer: a rule for each optimizer, and a check that none is left or shared."""

from collections.abc import Mapping, Sequence

from torch import nn

from ..patterns import Patterns, places_of_parameters


def assign_owners(model: nn.Module, rules: Mapping[str, Sequence[str] | str]) -> dict[str, dict[str, nn.Parameter]]:
    """Give every trainable parameter of a model to exactly one optimizer.

    Args:
        model: any module; frozen parameters (``requires_grad=False``) are left out.
        rules: for each optimizer's name, what it owns: a list of patterns (:mod:`pab.patterns`), such as
            ``['Conv2d.weight', '!name:head.*']``, or 'rest' (at most one optimizer) for all that no list selects. Names
            are those in the model, or in its ``network``, where pruners and converters find them.

    Returns:
        For each optimizer's name its parameters by full name, in the model's order. A parameter that several layers
        share appears once, under its first name.

    Raises:
        TypeError: a rule is neither 'rest' nor a list of strings.
        ValueError: a parameter claimed by two optimizers or by none, a pattern that matches nothing, an optimizer that
            ends up with nothing, or two optimizers that ask for the rest.
    """
    resting = [name for name, rule in rules.items() if rule == 'rest']
    if len(resting) > 1:
        raise ValueError(f"ownership: only one optimizer may own 'rest', got {' and '.join(resting)}")
    who = "ownership: owns of {!r}, unless it is 'rest',"
    lists = {name: Patterns(who.format(name), rule) for name, rule in rules.items() if rule != 'rest'}
    owned: dict[str, dict[str, nn.Parameter]] = {name: {} for name in rules}
    shared, ownerless = [], []
    for param, places in places_of_parameters(model).items():
        if not param.requires_grad:
            continue
        full_name = places[0].full_name
        places += [place._replace(full_name=place.full_name.removeprefix('network.')) for place in places]
        owners = [name for name, patterns in lists.items() if patterns.select_shared(places)] or resting
        if len(owners) == 1:
            owned[owners[0]][full_name] = param
        elif owners:
            shared.append(f'{full_name} ({", ".join(sorted(owners))})')
        else:
            ownerless.append(full_name)
    unused = [f'{pattern!r} of {name}' for name, patterns in lists.items() for pattern in sorted(patterns.unused)]
    idle = [name for name, params in owned.items() if not params]
    problems = []
    if shared:
        problems.append(f'claimed by two optimizers: {", ".join(shared)}; narrow one rule')
    if ownerless:
        problems.append(f"owned by none: {', '.join(ownerless)}; extend a rule, or let one optimizer own 'rest'")
    if unused:
        problems.append(f'matching no trainable parameter: {", ".join(unused)}; correct the pattern or drop it')
    elif idle:
        problems.append(f'left with nothing to train: {", ".join(idle)}; drop the optimizer')
    if problems:
        raise ValueError(f'ownership: {dict(rules)} leaves parameters ' + '; and '.join(problems))
    return owned
