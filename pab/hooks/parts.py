"""The parts of a run that several hooks look at."""

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn
from torch.optim import Optimizer

from ..optim import Bop


def network_of(model: nn.Module) -> nn.Module:
    """The bare network of a model: without the distributed wrapper and without the classifier around it."""
    if is_model_wrapper(model):
        model = model.module
    return getattr(model, 'network', model)


def optimizers_of(runner: Runner) -> list[Optimizer]:
    """The optimizers of a run; none while they are not built yet."""
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        return [single.optimizer for single in wrapper.values()]
    return [wrapper.optimizer] if isinstance(wrapper, OptimWrapper) else []


def bops_of(runner: Runner) -> list[Bop]:
    """The Bop optimizers of a run."""
    return [optimizer for optimizer in optimizers_of(runner) if isinstance(optimizer, Bop)]
