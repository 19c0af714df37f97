"""Which parameter belongs to which optimizer: a rule for each optimizer, and a check that none is left or shared."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

REST = 'rest'


def assign_owners(model: nn.Module, rules: Mapping[str, Sequence[str] | str]) -> dict[str, dict[str, nn.Parameter]]:
    """Give every trainable parameter of a model to exactly one optimizer.

    Args:
        model: any module; frozen parameters (``requires_grad=False``) are left out.
        rules: for each optimizer's name, what it owns: a list of patterns, or 'rest' (at most one optimizer) for all
            that no pattern claims. A pattern is a layer type, ``'Linear'``; a parameter of a layer type,
            ``'Conv2d.weight'``; or ``'name:'`` and a glob over the parameter's full name, ``'name:head.*'``. A type
            also covers its subclasses, by the names in the class's MRO (``PSGConv2d`` is a ``Conv2d``).

    Returns:
        For each optimizer's name its parameters by full name, in the model's order. A parameter that several modules
        share appears once, under its first name.

    Raises:
        ValueError: a parameter claimed by two optimizers or by none, a pattern that matches nothing, an optimizer that
            ends up with nothing, or two optimizers that ask for the rest.
    """
    if sum(rule == REST for rule in rules.values()) > 1:
        raise ValueError(f"ownership: only one optimizer may own 'rest', got {_asking_for_rest(rules)}")
    rules = {name: rule if rule == REST else _as_patterns(name, rule) for name, rule in rules.items()}
    claims: dict[nn.Parameter, set[str]] = {}
    names: dict[nn.Parameter, str] = {}
    unused = {(optimizer, pattern) for optimizer, rule in rules.items() if rule != REST for pattern in rule}
    for prefix, module in model.named_modules():
        for local, param in module.named_parameters(recurse=False):
            if not param.requires_grad:
                continue
            full = f'{prefix}.{local}' if prefix else local
            names.setdefault(param, full)
            claimed = claims.setdefault(param, set())
            for optimizer, rule in rules.items():
                for pattern in rule if rule != REST else ():
                    if _matches(pattern, module, local, full):
                        claimed.add(optimizer)
                        unused.discard((optimizer, pattern))
    rest = next((optimizer for optimizer, rule in rules.items() if rule == REST), None)
    owned: dict[str, dict[str, nn.Parameter]] = {optimizer: {} for optimizer in rules}
    shared, ownerless = [], []
    for param, claimed in claims.items():
        if len(claimed) > 1:
            shared.append(f'{names[param]} ({", ".join(sorted(claimed))})')
        elif not claimed and rest is None:
            ownerless.append(names[param])
        else:
            owned[claimed.pop() if claimed else rest][names[param]] = param
    _report(shared, ownerless, sorted(unused), [optimizer for optimizer, params in owned.items() if not params], rules)
    return owned


def _as_patterns(optimizer: str, rule: Sequence[str] | str) -> Sequence[str]:
    if isinstance(rule, str) or not all(isinstance(pattern, str) for pattern in rule):
        raise ValueError(
            f"ownership: {optimizer} must own 'rest' or a list of patterns such as ['Conv2d.weight'], got {rule!r}"
        )
    return rule


def _asking_for_rest(rules: Mapping[str, Sequence[str] | str]) -> str:
    return ' and '.join(optimizer for optimizer, rule in rules.items() if rule == REST)


def _matches(pattern: str, module: nn.Module, local: str, full: str) -> bool:
    if pattern.startswith('name:'):
        return fnmatchcase(full, pattern.removeprefix('name:'))
    layer_type, _, parameter = pattern.partition('.')
    return (not parameter or parameter == local) and layer_type in {cls.__name__ for cls in type(module).__mro__}


def _report(shared: list[str], ownerless: list[str], unused: list, idle: list[str], rules: Mapping) -> None:
    problems = []
    if shared:
        problems.append(f'claimed by two optimizers: {", ".join(shared)}; narrow one rule')
    if ownerless:
        problems.append(f"owned by none: {', '.join(ownerless)}; extend a rule, or let one optimizer own 'rest'")
    if unused:
        patterns = ', '.join(f'{pattern!r} of {optimizer}' for optimizer, pattern in unused)
        problems.append(f'matching no trainable parameter: {patterns}; correct the pattern or drop it')
    elif idle:
        problems.append(f'left with nothing to train: {", ".join(idle)}; drop the optimizer')
    if problems:
        raise ValueError(f'ownership: {dict(rules)} leaves parameters ' + '; and '.join(problems))
