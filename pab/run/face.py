"""The public face of a run, for hooks and everything else above it."""

from collections.abc import Callable
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import BaseLoop
from torch import nn
from torch.optim import Optimizer

from ..contracts import sign_optimizers, sign_trained
from ..models import network_of


def on_first_process(act: Callable[[], Any]) -> Any:
    """Act on the first process only; its result, or its error, is that of every process."""
    outcome: list = [None]
    if is_main_process():
        try:
            outcome[0] = act()
        except Exception as error:
            outcome[0] = error
    broadcast_object_list(outcome)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


class RunFace:
    """The public face of a run, beside what mmengine documents of its Runner: nobody needs a private name of either.

    Private names of mmengine are read here, where it offers no public ones.
    """

    @property
    def bare_model(self) -> nn.Module:
        """The model without the wrapper that makes it distributed."""
        return self.model.module if is_model_wrapper(self.model) else self.model

    @property
    def network(self) -> nn.Module:
        """The network alone, images (N, C, H, W) -> logits: without that wrapper, and without an ImageClassifier."""
        return network_of(self.model)

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers; none while they are not built yet."""
        return [wrapper.optimizer for wrapper in single_wrappers(self.optim_wrapper)]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all optimizers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def sign_optimizers(self) -> list[Optimizer]:
        """The optimizers that flip signs (:mod:`pab.contracts`)."""
        return sign_optimizers(self.optimizers)

    @property
    def sign_trained(self) -> dict[str, nn.Parameter]:
        """Name in the network -> parameter, of the optimizers that flip signs."""
        return sign_trained(self.network, self.optimizers)

    @property
    def passes_per_update(self) -> int:
        """The number of backward passes in one update; the last update of a run may have fewer."""
        return single_wrappers(self.optim_wrapper)[0]._accumulative_counts  # which has no public name

    @property
    def is_within_update(self) -> bool:
        """True while some of the backward passes of the next update are done, and others are not."""
        wrappers = single_wrappers(self.optim_wrapper)
        return bool(wrappers) and not wrappers[0].should_update()

    @property
    def trains(self) -> bool:
        """True once a training has begun; a run that only evaluates or prunes has no loop for one."""
        return self._train_loop is not None and not isinstance(self._train_loop, dict)  # the public name would build it

    @property
    def evaluates(self) -> bool:
        """True if the run validates or tests, and does not train."""
        return not self.trains and any(isinstance(loop, BaseLoop) for loop in (self._val_loop, self._test_loop))

    @property
    def resumes(self) -> bool:
        """True if the run goes on from a checkpoint, which is decided when a training starts."""
        return self._resume  # a constructor's argument that mmengine keeps under this name only

    @property
    def start_file(self) -> str | None:
        """The file whose weights the run starts with, or which it goes on from; None for newly drawn weights."""
        return self._load_from  # as resumes

    @property
    def seed_is_open(self) -> bool:
        """True if the config leaves the seed open; ``seed`` is then the one that was drawn."""
        return self._randomness_cfg.get('seed') is None  # ``seed`` does not tell a drawn one

    on_first_process = staticmethod(on_first_process)


def single_wrappers(optim_wrapper: Any) -> list[OptimWrapper]:
    """The wrappers of single optimizers, of which a run has one or several; none before they are built."""
    if isinstance(optim_wrapper, OptimWrapperDict):
        return list(optim_wrapper.values())
    return [optim_wrapper] if isinstance(optim_wrapper, OptimWrapper) else []
