"""Stop a run whose loss or gradients are no longer finite, and name the layer where that began."""

import functools
import math
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ...contracts import learning_rates
from ...registry import HOOKS
from ...run import PabRunner, RunHook
from ...run.work_dir import NOT_FOR_RESUME, checkpoint_folders, run_files


@HOOKS.register_module()
class DivergenceHook(RunHook):
    """Stop before an update by gradients that are NaN or infinite, and name the layer where the first such number is.

    The norm of all gradients, which processes share, is looked at before every update. If it is not finite, the step is
    computed once more with its weights, batches and random numbers, to see where the first such number arises.

    The norm is one pass over the gradients, on a CPU 0.1 to 0.4 % of a step. On a GPU nobody waits for it: it is read
    one update later, and a copy of the weights from before the update is kept for that long.

    A loss that is not finite although its gradients are, and one that a loss scale skips, are seen when the losses are
    read, once a logging interval (:class:`DeviceScalarsHook`). The checkpoint ``diverged_iter_<n>.pth`` is for looking
    at; resuming passes over it.

    Raises:
        FloatingPointError: a loss or a gradient was not finite, on any process.
    """

    changes_training = False

    def before_train(self, runner: PabRunner) -> None:
        self._model = runner.bare_model
        self._params = [param for param in self._model.parameters() if param.requires_grad]
        self._passes = deque(maxlen=runner.passes_per_update)  # of the next update
        self._late = self._params[0].is_cuda
        self._unread: tuple | None = None  # what is known of the last update, where it is looked at late,
        self._weights: list[Tensor] = []  # and the weights from before it
        self._handle = runner.optimizers[0].register_step_pre_hook(lambda *_: self._before_update(runner))

    def before_train_iter(self, runner: PabRunner, batch_idx: int, data_batch=None) -> None:
        """Keep what the pass would be computed from once more."""
        self._passes.append((data_batch, torch.get_rng_state(), torch.cuda.get_rng_state() if self._late else None))

    def after_train_epoch(self, runner: PabRunner) -> None:
        self._look_back(runner)

    def after_train(self, runner: PabRunner) -> None:
        self._handle.remove()

    def after_scalars(self, runner: PabRunner, scalars: list[tuple[int, dict[str, float]]]) -> None:
        named = [(step, name, value) for step, values in scalars for name, value in values.items() if 'loss' in name]
        bad = [(step, f'{name} is {value}') for step, name, value in named if not math.isfinite(value)]
        anywhere = torch.tensor(len(bad), device=self._params[0].device)
        all_reduce(anywhere, 'max')  # so that no process is left waiting for one that stops
        if anywhere:
            step, what = bad[0] if bad else (runner.iter, 'a loss of another process is not finite')
            self._stop(runner, step, what, self._passes)

    def _before_update(self, runner: PabRunner) -> None:
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

    def _look_back(self, runner: PabRunner) -> None:
        """Look at the last update's norm; the device has computed it while the host prepared this one."""
        if self._unread is None:
            return
        (step, norm, event, passes), self._unread = self._unread, None
        event.synchronize()
        if not math.isfinite(norm):
            for param, before in zip(self._params, self._weights, strict=True):
                param.data.copy_(before)
            self._stop(runner, step, 'a gradient is not finite', passes)

    def _stop(self, runner: PabRunner, step: int, what: str, passes: Iterable[tuple]) -> None:
        name = f'{NOT_FOR_RESUME}iter_{runner.iter + 1}.pth'
        runner.save_checkpoint(runner.work_dir, name, by_epoch=False)
        origin = largest = ''
        for data_batch, state, cuda in passes:
            torch.set_rng_state(state)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda)
            origin, largest = look_again(self._model, lambda batch=data_batch: self._loss(runner, batch))
            if origin or largest:
                break
        if largest and not origin:
            what, origin = 'the norm of the gradients is not finite in float32, though they are', largest
        elsewhere = 'in another process' if runner.world_size > 1 else 'before the last step, which is finite'
        rates = [f'learning rate {group["lr"]:.3g}' for group in learning_rates(runner.optimizers)]
        moved = 'adaptivity_rate'
        rates += [f'adaptivity rate {group[moved]:.3g}' for group in runner.param_groups if moved in group]
        raise FloatingPointError(
            f'training stopped at step {step + 1}: {what} (epoch {runner.epoch + 1}; {", ".join(rates)}); it began '
            f'{f"in {origin}" if origin else elsewhere}. The state is in {name}. A lower learning rate or gradient '
            f'clipping (optim_wrapper.clip_grad) may help{self._where_to_go_back(runner)}'
        )

    @staticmethod
    def _where_to_go_back(runner: PabRunner) -> str:
        """Advice for a run that has written no checkpoint since it was resumed: the one before that it went on from."""
        if not (runner.resumes and runner.start_file):
            return ''
        files = run_files(checkpoint_folders(runner))
        sound = [f for f in files if 'optimizer' in (f.content or ()) and not f.path.name.startswith(NOT_FOR_RESUME)]
        start = Path(runner.start_file).resolve()
        if not sound or sound[0].path.resolve() != start:
            return ''
        told = f'. The run went on from {start.name}, and with the same settings comes here again: '
        if len(sound) == 1:
            return f'{told}there is no older checkpoint, so change them by --allow-changes, or start anew'
        return f'{told}change them by --allow-changes, or go further back by --resume {sound[1].path} --overwrite'

    def _loss(self, runner: PabRunner, data_batch) -> Tensor:
        with runner.optim_wrapper.optim_context(self._model):
            data = self._model.data_preprocessor(data_batch, True)
            args, kwargs = ((), data) if isinstance(data, dict) else (data, {})
            return self._model.parse_losses(self._model(*args, **kwargs, mode='loss'))[0]


def look_again(model: nn.Module, loss_of: Callable[[], Tensor]) -> tuple[str, str]:
    """Run a forward and a backward pass, and name where the first number that is not finite stands.

    The order is that of computation: the weights, the outputs, the loss, then gradients from the last layer to the
    first, of every layer that has weights of its own or no layers inside. ``loss_of`` runs the forward pass and returns
    the loss, (). Weights and their ``grad`` stay as they are; running statistics move as in any forward pass in
    training mode. Numbers are counted on the device, and read once.

    Returns:
        That place, '' if there is none; and that of the largest gradient, with its magnitude, where all numbers are
        finite and only the norm of all gradients, in their type, is not, else ''.
    """
    layers = {name: m for name, m in model.named_modules() if m._parameters or next(m.children(), None) is None}
    outputs: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}

    def after_forward(name: str, _module: nn.Module, _inputs: tuple, output: Any) -> None:
        if name not in outputs and isinstance(output, Tensor):
            outputs[name] = _count([output])
            if output.requires_grad:
                output.register_hook(lambda grad: gradients.update({name: _count([grad])}))

    handles = [m.register_forward_hook(functools.partial(after_forward, name)) for name, m in layers.items()]
    try:
        loss = loss_of()
    finally:
        for handle in handles:
            handle.remove()
    params = [param for param in model.parameters() if param.requires_grad]
    grads = dict(zip(params, torch.autograd.grad(loss, params, allow_unused=True), strict=True))
    order = [*outputs, *(name for name in layers if name not in outputs)]
    places = [(f'the weights of {name}', _count(layers[name].parameters(recurse=False))) for name in order]
    places += [(f'the output of {name}', count) for name, count in outputs.items()] + [('the loss', _count([loss]))]
    following = 'the loss'
    for name in reversed(order):
        if name in gradients:
            places.append((f'the gradient between {following} and the output of {name}', gradients[name]))
        count = _count(map(grads.get, layers[name].parameters(recurse=False)))
        places.append((f'the gradient of the weights of {name}', count))
        following = name
    counts = torch.stack([count.to(loss.device) for _, count in places]).tolist()
    for (place, _), bad in zip(places, counts, strict=True):
        if bad:
            return f'{place} ({bad:,} not finite)', ''
    known = {name: grads[param] for name, param in model.named_parameters() if grads.get(param) is not None}
    if torch.nn.utils.get_total_norm(known.values()).isfinite():
        return '', ''
    value, name = max((float(grad.abs().max()), name) for name, grad in known.items())
    return '', f'the gradient of {name}, the largest ({value:.2g})'


def _count(tensors: Iterable[Tensor | None]) -> Tensor:
    """Count the numbers that are not finite, on their device."""
    values = [tensor.detach() for tensor in tensors if tensor is not None and tensor.is_floating_point()]
    return sum((value.isfinite().logical_not().sum() for value in values), start=torch.tensor(0))
