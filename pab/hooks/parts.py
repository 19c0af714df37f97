"""The parts of a run that several hooks look at."""

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ..optim import Bop


def network_of(model: nn.Module) -> nn.Module:
    """The bare network of a model: without the distributed wrapper and without the classifier around it."""
    if is_model_wrapper(model):
        model = model.module
    return getattr(model, 'network', model)


def optimizers_of(runner: Runner) -> dict:
    """Every optimizer of a run by its name in the config ('optimizer' when there is one without a name)."""
    wrapper = runner.optim_wrapper
    return {name: w.optimizer for name, w in wrapper.items()} if hasattr(wrapper, 'items') else {'': wrapper.optimizer}


def bops_of(runner: Runner) -> list[Bop]:
    """The Bop optimizers of a run."""
    return [optimizer for optimizer in optimizers_of(runner).values() if isinstance(optimizer, Bop)]
