"""The parts of a run that several hooks look at."""

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.optim import Optimizer

from ..contracts import layers_with_weight_in_use, sign_optimizers
from ..pruners import get_masks


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without the distributed wrapper."""
    return model.module if is_model_wrapper(model) else model


def network_of(model: nn.Module) -> nn.Module:
    """The bare network of a model: without the distributed wrapper and without the classifier around it."""
    return getattr(unwrapped(model), 'network', unwrapped(model))


def optimizers_of(runner: Runner) -> list[Optimizer]:
    """The optimizers of a run; none while they are not built yet."""
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        return [single.optimizer for single in wrapper.values()]
    return [wrapper.optimizer] if isinstance(wrapper, OptimWrapper) else []


def sign_optimizers_of(runner: Runner) -> list[Optimizer]:
    """The optimizers of a run that flip signs (see :mod:`pab.contracts`)."""
    return sign_optimizers(optimizers_of(runner))


def sign_trained(runner: Runner) -> dict[str, nn.Parameter]:
    """Name in the network -> parameter, for those that belong to an optimizer which flips signs."""
    owned = {p for optimizer in sign_optimizers_of(runner) for group in optimizer.param_groups for p in group['params']}
    return {name: param for name, param in network_of(runner.model).named_parameters() if param in owned}


@torch.no_grad()
def weights_left(network: nn.Module) -> dict[str, tuple[int, int]]:
    """Name -> (kept, all) for every weight with a mask, and for every one in whose place another is used.

    Of the latter those are kept whose weight in use is not 0 (see :mod:`pab.contracts`).
    """
    kept = get_masks(network)
    kept |= {name: layer.used_weight() != 0 for name, layer in layers_with_weight_in_use(network).items()}
    return {name: (int(marks.sum()), marks.numel()) for name, marks in kept.items()}


def need_epochs(runner: Runner, who: str) -> None:
    """Raise a ValueError naming the hook ``who`` unless the training loop is one over epochs."""
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        raise ValueError(
            f'{who}: counts in epochs, and the training loop is {type(runner.train_loop).__name__}; set '
            "train_cfg.type='ResumableEpochLoop', or drop the hook"
        )
