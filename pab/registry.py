"""Every registry of pab: children of mmengine's roots, and two of our own.

A child finds what its root holds (``type='LoggerHook'`` works as it always did) and imports its own modules when it
is first asked for a name, so nothing has to be imported by hand.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mmengine import registry as roots
from mmengine.registry import Registry

from .checks import did_you_mean

SCOPE = 'pab'


class NamingRegistry(Registry):
    """mmengine's registry, which answers an unknown name with the known ones."""

    def get(self, key: str):
        """Return what is registered under a name, here or in the parent.

        Raises:
            KeyError: nothing is; the error lists what there is, or what is most like it.
        """
        found = super().get(key)
        if found is None:
            own = sorted(self.module_dict)
            hint = did_you_mean(key, own + sorted(self.parent.module_dict if self.parent else ()))
            names = ', '.join(own) or 'none of its own'
            raise KeyError(
                f'{key!r} is not a registered {self.name}; {hint and hint + " "}pab has {names}; '
                'a class of your own must be imported first: custom_imports=dict(imports=[...])'
            )
        return found


def _child(root: Registry, *locations: str) -> Registry:
    return NamingRegistry(root.name, parent=root, scope=SCOPE, locations=list(locations))


MODELS = _child(roots.MODELS, 'pab.models')  # networks, the classifier, data preprocessors
DATASETS = _child(roots.DATASETS, 'pab.datasets')  # digits, CIFAR, image folders
DATA_SAMPLERS = _child(roots.DATA_SAMPLERS, 'pab.datasets')  # orders of samples that can be resumed
TRANSFORMS = _child(roots.TRANSFORMS, 'pab.transforms')  # torchvision's, of one image or of a batch
METRICS = _child(roots.METRICS, 'pab.evaluation')  # accuracy
OPTIMIZERS = _child(roots.OPTIMIZERS, 'pab.optim')  # sign optimizers
OPTIM_WRAPPERS = _child(roots.OPTIM_WRAPPERS, 'pab.optim')  # one backward pass for several optimizers
OPTIM_WRAPPER_CONSTRUCTORS = _child(roots.OPTIM_WRAPPER_CONSTRUCTORS, 'pab.optim')  # owners of parameters
PARAM_SCHEDULERS = _child(roots.PARAM_SCHEDULERS, 'pab.optim')  # courses of a setting in a run
HOOKS = _child(roots.HOOKS, 'pab.hooks', 'pab.contrib.gradient_compression')  # all that act during a run
RUNNERS = _child(roots.RUNNERS, 'pab.run')  # mmengine's runner with a short console log and safe resume
LOOPS = _child(roots.LOOPS, 'pab.run')  # the epoch loop that can be resumed inside an epoch
VISUALIZERS = _child(roots.VISUALIZERS, 'pab.run')  # scalars; a full disk does not end a run for them

PRUNERS = NamingRegistry('pruner', scope=SCOPE, locations=['pab.pruners'])  # scores of weights
CONVERTERS = NamingRegistry('converter', scope=SCOPE, locations=['pab.psg', 'pab.latent'])  # changes of layers

READERS: dict[str, str | Callable[[Any], dict]] = {'.pab': 'pab.compact.checkpoint:as_checkpoint'}
"""Ending of a file -> what reads such a file as a checkpoint: a function of its path, or where to import one from."""

# mmengine warns about each root that has no child in the default scope, so the rest get an empty one.
_HELD = {registry.name for registry in list(globals().values()) if isinstance(registry, Registry)}
_REST = [
    Registry(root.name, parent=root, scope=SCOPE)
    for root in vars(roots).values()
    if isinstance(root, Registry) and root.name not in _HELD
]


def check_names(config: Any, what: str, *registries: Registry) -> None:
    """Refuse a config that a data file holds where it names more than what the registries hold already.

    A dot or a scope in a name would make mmengine import a module. Asking imports pab's own modules, and no others.

    Args:
        config: plain data; checked at any depth.
        what: kind of the things it may name, for messages.
        registries: where these are.

    Raises:
        ValueError: a ``type`` is not registered or reads another file, or a key is no name of an argument.
    """
    known = {}
    for registry in registries:
        registry.import_from_location()
        known.update(registry.module_dict)
    _check_names(config, known, f'is no {what} of pab')


def _check_names(value: Any, known: Mapping[str, Any], wrong: str) -> None:
    is_dict = isinstance(value, Mapping)
    for item in value.values() if is_dict else value if isinstance(value, list | tuple) else ():
        _check_names(item, known, wrong)
    if not is_dict:
        return
    if odd := [key for key in value if not (isinstance(key, str) and key.isidentifier()) or key.startswith('_')]:
        raise ValueError(f'{odd[0]!r} is no name of an argument')
    if 'type' not in value:
        return
    kind = known.get(value['type']) if isinstance(value['type'], str) else None
    if kind is None:
        raise ValueError(
            f'{value["type"]!r} {wrong}, which has {", ".join(sorted(known))}; import a class of your own before you '
            'load the file, or name a config that does (--config of the commands)'
        )
    if getattr(kind, 'reads_a_file', False):
        raise ValueError(f'a network of type {value["type"]} is in another file, and a data file names no other')
