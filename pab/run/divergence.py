"""Stop a run whose loss or gradients are no longer finite, and name the layer where that began."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from ..contracts import learning_rates
from ..hooks.parts import optimizers_of
from ..registry import HOOKS
from .checkpoint import bare, wrappers_of
from .work_dir import NOT_FOR_RESUME


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Stop before an update by gradients that are NaN or infinite, and name the layer where the first such number is.

    The norm of all gradients, which processes share, is looked at before every update. If it is not finite, the step is
    computed once more with its weights, batches and random numbers, and every layer's weights, output and gradients are
    looked at. The table of all layers is in the log; the error names the first one.

    The norm is one pass over the gradients, on a CPU 0.1 to 0.4 % of a step. On a GPU nobody waits for it: it is read
    one update later, and a copy of the weights from before the update is kept for that long.

    A loss that is not finite although its gradients are, and one that a loss scale skips, are seen when the losses are
    read, once a logging interval (:class:`DeviceScalarsHook`). The checkpoint ``diverged_iter_<n>.pth`` is for looking
    at; resuming passes over it.

    Raises:
        FloatingPointError: a loss or a gradient was not finite, on any process.
    """

    def before_train(self, runner: Runner) -> None:
        """Look before every update."""
        self._model = bare(runner.model)
        self._params = [param for param in self._model.parameters() if param.requires_grad]
        self._passes = deque(maxlen=wrappers_of(runner.optim_wrapper)[0]._accumulative_counts)  # of the next update
        self._late = self._params[0].is_cuda
        self._unread: tuple | None = None  # what is known of the last update, where it is looked at late,
        self._weights: list[Tensor] = []  # and the weights from before it
        self._handle = optimizers_of(runner)[0].register_step_pre_hook(lambda *_: self._before_update(runner))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Keep what the pass would be computed from once more."""
        self._passes.append((data_batch, torch.get_rng_state(), torch.cuda.get_rng_state() if self._late else None))

    def after_train_epoch(self, runner: Runner) -> None:
        """Look at the last update."""
        self._look_back(runner)

    def after_train(self, runner: Runner) -> None:
        """Look no more."""
        self._handle.remove()

    def after_scalars(self, runner: Runner, scalars: list[tuple[int, dict[str, float]]]) -> None:
        """Look at the losses that have come."""
        named = [(step, name, value) for step, values in scalars for name, value in values.items() if 'loss' in name]
        bad = [(step, f'{name} is {value}') for step, name, value in named if not math.isfinite(value)]
        anywhere = torch.tensor(len(bad), device=self._params[0].device)
        all_reduce(anywhere, 'max')  # so that no process is left waiting for one that stops
        if anywhere:
            step, what = bad[0] if bad else (runner.iter, 'a loss of another process is not finite')
            self._stop(runner, step, what, self._passes)

    def _before_update(self, runner: Runner) -> None:
        norm = torch.nn.utils.get_total_norm([param.grad for param in self._params if param.grad is not None])
        if self._late:
            self._look_back(runner)
            self._weights = self._weights or [torch.empty_like(param) for param in self._params]
            with torch.no_grad():
                torch._foreach_copy_(self._weights, self._params)
            norm, event = norm.to('cpu', non_blocking=True), torch.cuda.Event()
            event.record()
            self._unread = runner.iter, norm, event, list(self._passes)
        elif not math.isfinite(norm):
            self._stop(runner, runner.iter, 'a gradient is not finite', self._passes)

    def _look_back(self, runner: Runner) -> None:
        """Look at the last update's norm; the device has computed it while the host prepared this one."""
        if self._unread is None:
            return
        (step, norm, event, passes), self._unread = self._unread, None
        event.synchronize()
        if not math.isfinite(norm):
            for param, before in zip(self._params, self._weights, strict=True):
                param.data.copy_(before)
            self._stop(runner, step, 'a gradient is not finite', passes)

    def _stop(self, runner: Runner, step: int, what: str, passes: Iterable[tuple]) -> None:
        name = f'{NOT_FOR_RESUME}iter_{runner.iter + 1}.pth'
        runner.save_checkpoint(runner.work_dir, name, by_epoch=False)
        for data_batch, state, cuda in passes:
            torch.set_rng_state(state)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda)
            statistics = layer_statistics(self._model, lambda batch=data_batch: self._loss(runner, batch))
            if statistics.origin:
                break
        runner.logger.error(f'Step {step + 1}, computed once more:\n{statistics.table()}')
        elsewhere = 'in another process' if runner.world_size > 1 else 'before the last step, which is finite'
        optimizers = optimizers_of(runner)
        groups = [group for optimizer in optimizers for group in optimizer.param_groups if 'adaptivity_rate' in group]
        rates = [f'learning rate {group["lr"]:.3g}' for group in learning_rates(optimizers)]
        rates += [f'adaptivity rate {group["adaptivity_rate"]:.3g}' for group in groups]
        raise FloatingPointError(
            f'training stopped at step {step + 1}: {what} (epoch {runner.epoch + 1}; {", ".join(rates)}); it began '
            f'{f"in {statistics.origin}" if statistics.origin else elsewhere}. All layers are in the log, the state in '
            f'{name}. A lower learning rate or gradient clipping (optim_wrapper.clip_grad) may help'
        )

    def _loss(self, runner: Runner, data_batch) -> Tensor:
        with runner.optim_wrapper.optim_context(self._model):
            data = self._model.data_preprocessor(data_batch, True)
            args, kwargs = ((), data) if isinstance(data, dict) else (data, {})
            return self._model.parse_losses(self._model(*args, **kwargs, mode='loss'))[0]


PARTS = ('weights', 'output', 'output gradient', 'weight gradient')


class PassStatistics(NamedTuple):
    """A forward and a backward pass: layers, in the order in which they ran -> part -> (magnitude, not finite).

    The magnitude is the largest finite one, the other the count of numbers that are not finite.
    """

    loss: float
    layers: dict[str, dict[str, tuple[float, int]]]

    @property
    def origin(self) -> str:
        """Where the first number that is not finite stands, in the order of computation; '' when all are finite."""
        places = [(f'the weights of {name}', row['weights']) for name, row in self.layers.items()]
        places += [(f'the output of {name}', row['output']) for name, row in self.layers.items()]
        places.append(('the loss', (0.0, int(not math.isfinite(self.loss)))))
        following = 'the loss'
        for name, row in reversed(self.layers.items()):
            places.append((f'the gradient between {following} and the output of {name}', row['output gradient']))
            places.append((f'the gradient of the weights of {name}', row['weight gradient']))
            following = name
        return next((f'{place} ({bad:,} not finite)' for place, (_, bad) in places if bad), '')

    def table(self) -> str:
        """The layers as text: largest magnitudes, and how many numbers are not finite."""
        rows = [('layer', *PARTS)]
        for name, row in self.layers.items():
            rows.append((name, *(f'{most:.3g}' + (f' ({bad:,} bad)' if bad else '') for most, bad in row.values())))
        width = max(len(name) for name, *_ in rows)
        return '\n'.join(f'{name:<{width}}' + ''.join(f'  {cell:>18}' for cell in cells) for name, *cells in rows)


def layer_statistics(model: nn.Module, loss_of: Callable[[], Tensor]) -> PassStatistics:
    """Run a forward and a backward pass and look at every layer that has weights of its own or no layers inside.

    ``loss_of`` runs the forward pass and returns the loss, (). Weights and their ``grad`` stay as they are; running
    statistics move as in any forward pass in training mode.
    """
    names = {m: name for name, m in model.named_modules() if m._parameters or next(m.children(), None) is None}
    rows: dict[str, dict[str, tuple[float, int]]] = {}

    def row_of(module: nn.Module) -> dict[str, tuple[float, int]]:
        own = module.parameters(recurse=False)
        return rows.setdefault(names[module], dict.fromkeys(PARTS, (0.0, 0)) | {'weights': _magnitude(own)})

    def after_forward(module: nn.Module, _inputs: tuple, output) -> None:
        if names[module] in rows or not isinstance(output, Tensor):
            return
        row = row_of(module)
        row['output'] = _magnitude([output])
        if output.requires_grad:
            output.register_hook(lambda grad: row.update({'output gradient': _magnitude([grad])}))

    handles = [module.register_forward_hook(after_forward) for module in names]
    try:
        loss = loss_of()
    finally:
        for handle in handles:
            handle.remove()
    params = [param for param in model.parameters() if param.requires_grad]
    grads = dict(zip(params, torch.autograd.grad(loss, params, allow_unused=True), strict=True))
    for module in names:
        row_of(module)['weight gradient'] = _magnitude(map(grads.get, module.parameters(recurse=False)))
    return PassStatistics(float(loss.detach()), rows)


def _magnitude(tensors: Iterable[Tensor | None]) -> tuple[float, int]:
    values = [t.detach() for t in tensors if t is not None and t.is_floating_point() and t.numel()]
    most = max((float(value.abs().nan_to_num(0, 0, 0).max()) for value in values), default=0.0)
    return most, sum(int((~value.isfinite()).sum()) for value in values)
