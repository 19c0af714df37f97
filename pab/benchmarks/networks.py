"""The contenders: a network with its optimizers, ready to take a step on a batch that is always the same."""

import copy
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..costs.count import bytes_kept_by
from ..models import initialize_
from ..optim import Bop, assign_owners
from ..psg import PSGConfig, convert_psg_
from ..registry import MODELS
from .baseline import PerParameterBop, convert_to_baseline_
from .timing import Settings

SGD = dict(lr=0.01, momentum=0.9, weight_decay=5e-4)
PHASES = ('forward', 'backward', 'optimizer')


@dataclass(frozen=True)
class Case:
    """A network and a batch."""

    name: str
    network: dict
    batch: int
    size: int
    classes: int
    precision: torch.dtype | None = None
    """autocast's type; None for float32, with TF32 on a GPU"""


class Contender:
    """One network that trains.

    Args:
        network: used as it is; in channels_last on the device afterwards.
        optimizers: made by ``make_optimizers(network)``.
        after_step: called after each step, as a hook would be.
    """

    def __init__(
        self,
        case: Case,
        network: nn.Module,
        make_optimizers: Callable[[nn.Module], list[torch.optim.Optimizer]],
        settings: Settings,
        compile: bool = False,
        after_step: Callable[['Contender'], None] | None = None,
    ) -> None:
        self.settings, self.case, self.after_step = settings, case, after_step
        self.network = network.to(settings.device, memory_format=torch.channels_last).train()
        self.optimizers = make_optimizers(self.network)
        if compile:  # on a GPU with CUDA graphs, which spare the launches
            self.network.compile(mode='reduce-overhead' if settings.device == 'cuda' else None)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(case.batch, 3, case.size, case.size, generator=generator).relu_()
        self.images = images.to(settings.device, memory_format=torch.channels_last)
        self.labels = torch.randint(0, case.classes, (case.batch,), generator=generator).to(settings.device)

    def loss(self) -> Tensor:
        """The forward pass."""
        precision = self.case.precision
        with torch.autocast(self.settings.device, precision) if precision else nullcontext():
            return F.cross_entropy(self.network(self.images), self.labels)

    def step(self) -> None:
        """A whole step, without waiting for the device."""
        self.loss().backward()
        self._update()

    def phases(self) -> dict[str, float]:
        """The seconds of each part of a step; on a GPU they are waited for, so their sum exceeds a step."""
        marks = [self._now()]
        loss = self.loss()
        for act in (loss.backward, self._update):
            marks.append(self._now())
            act()
        marks.append(self._now())
        return {name: after - before for name, (before, after) in zip(PHASES, pairwise(marks), strict=True)}

    def saved_bytes(self) -> int:
        """Bytes kept for the backward pass."""
        return bytes_kept_by(self.loss, self.network)

    def peak_bytes(self) -> int:
        """The most memory that a step holds on the GPU."""
        self.settings.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.step()
        self.settings.synchronize()
        mine = sum(p.nbytes for p in self.network.parameters()) + self.images.nbytes
        return torch.cuda.max_memory_allocated() - before + mine

    def _update(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.after_step:
            self.after_step(self)

    def _now(self) -> float:
        self.settings.synchronize()
        return time.perf_counter()


def make_network(case: Case) -> nn.Module:
    """The network of a case, with the weights that a run would begin with."""
    network = MODELS.build(copy.deepcopy(case.network))
    initialize_(network, 'kaiming_normal', 0)
    return network


def dense(case: Case, settings: Settings, **kwargs) -> Contender:
    """Plain layers, and torch's SGD on all weights."""
    return Contender(case, make_network(case), lambda n: [sgd(n.parameters())], settings, **kwargs)


def ours(
    case: Case, settings: Settings, network: nn.Module | None = None, psg: PSGConfig | None = None, **kwargs
) -> Contender:
    """PSG layers, Bop on the convolutions, SGD on the rest."""
    network = make_network(case) if network is None else network
    return Contender(case, convert_psg_(network, psg), two_optimizers(Bop), settings, **kwargs)


def baseline(case: Case, settings: Settings, **kwargs) -> Contender:
    """Five convolutions a layer, Bop parameter by parameter."""
    network = convert_to_baseline_(make_network(case))
    return Contender(case, network, two_optimizers(PerParameterBop), settings, **kwargs)


def two_optimizers(bop_class: type) -> Callable[[nn.Module], list[torch.optim.Optimizer]]:
    """A function of a network that gives its convolutions to a Bop and the rest to SGD."""

    def make(network: nn.Module) -> list[torch.optim.Optimizer]:
        owners = assign_owners(network, dict(signs=['Conv2d.weight'], sgd='rest'))
        bop = bop_class(owners['signs'].values(), adaptivity_rate=1e-3, threshold=1e-6)
        return [bop, sgd(owners['sgd'].values())]

    return make


def sgd(params) -> torch.optim.SGD:
    """torch's SGD with momentum and weight decay: fused on a GPU, on a CPU foreach, which is no slower there."""
    params = list(params)
    kind = 'fused' if params[0].is_cuda else 'foreach'
    return torch.optim.SGD(params, **SGD, **{kind: True})
