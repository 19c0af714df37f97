"""From the config's ``optim_wrapper`` to optimizers that own the model's parameters."""

from collections.abc import Mapping, Sequence

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from torch import nn

from ..contracts import loss_scale_conflicts
from ..models import ImageClassifier
from ..patterns import Patterns, places_of_parameters
from ..registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from ..state_dicts import NETWORK_PREFIX


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class OwnershipConstructor:
    """Build the optimizers of a config, each with the parameters its rule gives it.

    Args:
        optim_wrapper_cfg: ``optimizers``, a dict from names to optimizer configs, each with the key ``owns`` (see
            :func:`assign_owners`); every other key goes to the wrapper, by default :class:`SharedBackward`.
        paramwise_cfg: must be None.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        if paramwise_cfg is not None:
            raise ValueError("OwnershipConstructor: paramwise_cfg is not read; 'owns' gives parameters an optimizer")
        self.wrapper_cfg = {'type': 'SharedBackward', **optim_wrapper_cfg}
        self.optimizer_cfgs = self.wrapper_cfg.pop('optimizers', None)
        if not self.optimizer_cfgs:
            raise ValueError(
                'OwnershipConstructor: optim_wrapper.optimizers must name at least one optimizer, such as '
                f"dict(sgd=dict(type='SGD', owns='rest', lr=0.1)), got {self.optimizer_cfgs!r}"
            )
        for name, cfg in self.optimizer_cfgs.items():
            if 'owns' not in cfg:
                raise ValueError(
                    f"OwnershipConstructor: optimizer {name!r} needs the key 'owns': 'rest' or a list such as "
                    f"['Conv2d.weight'], got the keys {sorted(cfg)}"
                )

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        model = model.module if is_model_wrapper(model) else model
        if self.wrapper_cfg.get('precision') == 'float16':
            for name, reason in loss_scale_conflicts(model):
                raise ValueError(
                    f'OwnershipConstructor: precision float16 scales the loss, and the gradient of {name} does not '
                    f"scale with it: {reason}; use precision='bfloat16', or change that setting of the layer"
                )
        owned = assign_owners(model, {name: cfg['owns'] for name, cfg in self.optimizer_cfgs.items()})
        wrapper_cfg = dict(self.wrapper_cfg)
        for name, cfg in self.optimizer_cfgs.items():
            settings = {key: value for key, value in cfg.items() if key != 'owns'}
            wrapper_cfg[name] = OPTIMIZERS.build(dict(settings, params=list(owned[name].values())))
        return OPTIM_WRAPPERS.build(wrapper_cfg)


def assign_owners(model: nn.Module, rules: Mapping[str, Sequence[str] | str]) -> dict[str, dict[str, nn.Parameter]]:
    """Give every trainable parameter of a model to exactly one optimizer.

    Args:
        model: any module; frozen parameters (``requires_grad=False``) are left out.
        rules: for each optimizer's name, what it owns: a list of patterns (:mod:`pab.patterns`), such as
            ``['Conv2d.weight', '!name:head.*']``, or 'rest' (at most one optimizer) for all that no list selects. Names
            are those in the model, or in the network of an ImageClassifier, where pruners and converters find
            them.

    Returns:
        For each optimizer's name its parameters by full name (of shared ones the first), in the model's order.

    Raises:
        TypeError: a rule is neither 'rest' nor a list of strings.
        ValueError: a parameter with two owners or none, a pattern that matches nothing, an optimizer left with nothing.
    """
    resting = [name for name, rule in rules.items() if rule == 'rest']
    if len(resting) > 1:
        raise ValueError(f"ownership: only one optimizer may own 'rest', got {' and '.join(resting)}")
    who = "ownership: owns of {!r}, unless it is 'rest',"
    lists = {name: Patterns(who.format(name), rule) for name, rule in rules.items() if rule != 'rest'}
    owned: dict[str, dict[str, nn.Parameter]] = {name: {} for name in rules}
    shared, ownerless = [], []
    prefix = NETWORK_PREFIX if isinstance(model, ImageClassifier) else ''
    for param, places in places_of_parameters(model).items():
        if not param.requires_grad:
            continue
        full_name = places[0].full_name
        places += [place._replace(full_name=place.full_name.removeprefix(prefix)) for place in places]
        owners = [name for name, patterns in lists.items() if patterns.select_shared(places)] or resting
        if len(owners) > 1:
            shared.append(f'{full_name} ({", ".join(sorted(owners))})')
        elif owners:
            owned[owners[0]][full_name] = param
        else:
            ownerless.append(full_name)
    unused = [f'{pattern!r} of {name}' for name, patterns in lists.items() for pattern in sorted(patterns.unused)]
    idle = [name for name, params in owned.items() if not params]
    problems = {
        'claimed by two optimizers: {}; narrow one rule': shared,
        "owned by none: {}; extend a rule, or let one optimizer own 'rest'": ownerless,
        'matching no trainable parameter: {}; correct the pattern or drop it': unused,
        'left with nothing to train: {}; drop the optimizer': [] if unused else idle,
    }
    if found := [text.format(', '.join(names)) for text, names in problems.items() if names]:
        raise ValueError(f'ownership: {dict(rules)} leaves parameters {"; and ".join(found)}')
    return owned
