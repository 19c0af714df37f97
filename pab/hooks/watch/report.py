"""The report of a run for a person: a summary of a few lines, and a page with pictures."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process, master_only
from torch import Tensor, nn

from ...contracts import counts_of, layers_with_used_weight, special_layers
from ...pruners import get_masks
from ...registry import HOOKS
from ...report.amounts import clock
from ...report.record import NOT_TIMED, RunRecord, confusion_record, origin, rates_of, summary
from ...run import PabRunner, RunHook
from .costs import CostHook

KEY = 'report'  # the checkpoint's key
COUNTS = {'flips': 'flip rate', 'moves': 'move rate'}  # and the table of each
FIRST_PAGE, PAUSE = 60, 50  # seconds until the first page; then until the next, in times of what one takes


@HOOKS.register_module()
class ReportHook(RunHook):
    """Record a run, and leave ``report.html`` in its work dir, a page that needs no other file and no network.

    The page shows accuracy, loss, rates, density by layer and the seconds of each phase; where ``ClassAccuracy`` is a
    metric of the validation, which classes it took for which the last time; for a run with a sign optimizer also flips,
    moves and the share of signs that differ from the start, by layer; and for one with layers that have a special
    backward pass, the share of kept weights whose gradient in the last step of an epoch was not 0. Its numbers,
    ``report.json``, are written after every validation; the page, and its pictures as PNG in ``report/``, at the end of
    the training, and in between as often as takes 2 % of the time. ``pab report`` makes them from the numbers at any
    time. The record is part of the checkpoints, so a resumed run goes on with it.

    Nothing is read from the device within an epoch.

    Args:
        metric: the validation metric that is reported, an accuracy in per cent; else a ValueError.
    """

    priority = 'LOW'
    changes_training = False
    writes_report = True  # asked for by comparisons, which read report.json

    def __init__(self, metric: str = 'accuracy/top1') -> None:
        if not isinstance(metric, str) or 'accuracy' not in metric:
            raise ValueError(f"ReportHook: metric must be an accuracy, such as 'accuracy/top1', got {metric!r}")
        self.metric = metric
        self.record = RunRecord()
        self._start_signs: dict[str, Tensor] = {}
        self._counts: dict[str, dict[str, int]] = {}  # of COUNTS, by the weight's name, at the epoch's start
        self._gradients: dict[str, Tensor] = {}
        self._watches: list = []
        self._shots = 0
        self._next_page = time.monotonic() + FIRST_PAGE

    def before_train(self, runner: PabRunner) -> None:
        """Start the clock, and keep the signs that the run starts with."""
        self.record.start_clock()
        self._shots = _shots_done(runner)
        if not self._start_signs:
            self._start_signs = {name: (p.detach() < 0).cpu() for name, p in runner.sign_trained.items()}
        self._counts = self._counts or self._counts_so_far(runner)

    def before_train_epoch(self, runner: PabRunner) -> None:
        """Count what came before as pruning if there was one."""
        shots = _shots_done(runner)
        self.record.spent('pruning' if shots > self._shots else NOT_TIMED)
        if shots > self._shots:
            self._counts = self._counts_so_far(runner)  # a rewinding starts these counts anew
        self._shots = shots

    def before_train_iter(self, runner: PabRunner, batch_idx: int, data_batch=None) -> None:
        """Note the rates of an epoch's last step, before schedulers move them, and look at its gradients."""
        if batch_idx < len(runner.train_dataloader) - 1:
            return
        for name, value in rates_of(runner.optim_wrapper).items():
            self.record.add(name, runner.epoch + 1, value)
        if any(special_layers(runner.network)):
            for name, param in runner.sign_trained.items():
                watch = param.register_post_accumulate_grad_hook(lambda p, name=name: self._look(name, p))
                self._watches.append(watch)

    def after_train_iter(self, runner: PabRunner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Stop looking."""
        while self._watches:
            self._watches.pop().remove()

    def after_train_epoch(self, runner: PabRunner) -> None:
        """Note what the epoch did."""
        epoch, hub, record = runner.epoch + 1, runner.message_hub, self.record
        steps = len(runner.train_dataloader)
        data = sum(_last(hub, 'train/data_time', steps))
        record.seconds['data'] = record.seconds.get('data', 0.0) + data
        record.spent('training', data)
        if losses := _last(hub, 'train/loss', steps):
            record.add('training loss', epoch, sum(losses) / len(losses))
        if rates := _last(hub, 'flips/rate', 1):
            record.add('flip rate', epoch, rates[0])
        self._note_layers(runner, epoch, steps)

    def before_val_epoch(self, runner: PabRunner) -> None:
        """Count the checkpoint of the epoch."""
        self.record.spent(NOT_TIMED)

    def after_val_epoch(self, runner: PabRunner, metrics: dict[str, float] | None = None) -> None:
        """Note the accuracy, and write the page."""
        self.record.spent('validation')
        known = {self.metric: 'test accuracy', 'balanced_accuracy': 'balanced accuracy', 'cross_entropy': 'test loss'}
        for key, name in known.items():
            if metrics and key in metrics:
                self.record.add(name, runner.epoch, metrics[key])
        for metric in runner.val_loop.evaluator.metrics:
            if results := getattr(metric, 'results_by_class', None):
                self.record.confusion = confusion_record(results)
        self._write(runner, draw=time.monotonic() >= self._next_page)

    @master_only
    def after_train(self, runner: PabRunner) -> None:
        """Sum up: accuracy, density, flips, costs, and where everything is."""
        page = self._write(runner, draw=True)
        rows = [*summary(self._numbers(runner)), *self._places(runner, page)]
        lines = [f'  {name:<10}  {value}' for name, value in rows]
        elapsed = clock(sum(self.record.seconds.values()))
        runner.logger.info('\n'.join([f'Trained {runner.epoch} epochs in {elapsed}', *lines]))

    def before_save_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        """Keep the record, flips and moves before this epoch, and the signs of the start, eight to a byte."""
        packed = {
            name: torch.from_numpy(np.packbits(signs.numpy(), axis=None)) for name, signs in self._start_signs.items()
        }
        checkpoint[KEY] = {'record': self.record.state(), 'start_signs': packed, **self._counts}

    def after_load_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        """Take them up in a resumed run."""
        if not runner.resumes or KEY not in checkpoint:
            return
        self.record.load(checkpoint[KEY]['record'])
        self._counts = {kind: checkpoint[KEY].get(kind, {}) for kind in COUNTS}  # also of one resumed within
        for name, param in runner.network.named_parameters():
            if name in (packed := checkpoint[KEY]['start_signs']):
                bits = np.unpackbits(packed[name].cpu().numpy(), count=param.numel())
                self._start_signs[name] = torch.from_numpy(bits.astype(bool)).view(param.shape)

    def _note_layers(self, runner: PabRunner, epoch: int, steps: int) -> None:
        network = runner.network
        left = weights_left(network)
        if left:
            self.record.layers['density'] = {}
            self.record.add_layers('density', 1, {_layer(name): kept / total for name, (kept, total) in left.items()})
        changed, gradients = {}, {}
        rates: dict[str, dict[str, float]] = {kind: {} for kind in COUNTS}
        counts = self._counts_so_far(runner)
        for name, param in runner.sign_trained.items():
            kept = max(1, left.get(name, (param.numel(),))[0])
            for kind in (kind for kind in COUNTS if name in counts[kind]):
                new = counts[kind][name] - self._counts[kind].get(name, 0)
                rates[kind][_layer(name)] = new / (kept * steps)
            if name in self._start_signs:
                start = self._start_signs[name].to(param.device)
                changed[_layer(name)] = int((((param.detach() < 0) != start) & (param.detach() != 0)).sum()) / kept
            if name in self._gradients:
                gradients[_layer(name)] = int(self._gradients[name]) / kept
        self._counts = counts
        tables = {table: rates[kind] for kind, table in COUNTS.items()}
        for key, values in {**tables, 'changed signs': changed, 'gradients kept': gradients}.items():
            self.record.add_layers(key, epoch, values)

    def _look(self, name: str, param: Tensor) -> None:
        self._gradients[name] = torch.count_nonzero(param.grad)

    @staticmethod
    def _counts_so_far(runner: PabRunner) -> dict[str, dict[str, int]]:
        names, so_far = {param: name for name, param in runner.network.named_parameters()}, {}
        for kind in COUNTS:
            of = counts_of(runner.optimizers, f'tensor_{kind}')
            counts = {names[p]: c for p, c in of.items() if p in names}
            values = torch.stack(list(counts.values())).tolist() if counts else []
            so_far[kind] = dict(zip(counts, values, strict=True))
        return so_far

    def _numbers(self, runner: PabRunner) -> dict[str, Any]:
        """The run so far in numbers; None for what it does not have."""
        epochs, accuracies = self.record.as_curves().get('test accuracy', ([], []))
        best = max(filter(math.isfinite, accuracies), default=None)
        left = weights_left(runner.network).values()
        kept, prunable = (sum(counts) for counts in zip(*left, strict=True)) if left else (None, None)
        flips = _last(runner.message_hub, 'flips/total', 1)
        work = next((hook.work for hook in runner.hooks if isinstance(hook, CostHook)), None)
        return {
            'epoch': runner.epoch,
            'max_epochs': runner.max_epochs,
            'metric': self.metric,
            'accuracy': accuracies[-1] if best is not None else None,
            'best_accuracy': best,
            'best_epoch': None if best is None else epochs[accuracies.index(best)],
            'density': kept / prunable if left else None,
            'kept': kept,
            'prunable': prunable,
            'flips': int(flips[0]) if flips else None,
            'macs': sum(work.macs.values()) if work else None,
            'bit_operations': sum(work.bit_operations.values()) if work else None,
            'seconds': sum(self.record.seconds.values()),
        }

    @staticmethod
    def _places(runner: PabRunner, page: Path) -> list[tuple[str, str]]:
        places = {
            'checkpoint': runner.message_hub.get_info('last_ckpt'),
            'scalars': Path(runner.log_dir) / 'vis_data' / 'scalars.json',
            'report': page,
        }
        return [(name, str(place)) for name, place in places.items() if place and Path(place).exists()]

    def _write(self, runner: PabRunner, draw: bool) -> Path | None:
        if not is_main_process():
            return None
        # matplotlib takes half a second to import, and not every process that knows this hook draws
        from ...report.run import write_record, write_report

        tables = self.record.as_tables(runner.epoch)
        density, numbers = tables.pop('density', {}), self._numbers(runner)
        record: dict[str, Any] = {
            'name': Path(runner.work_dir).name,
            'summary': f'{runner.epoch} of {runner.max_epochs} epochs',
            'results': summary(numbers),
            'numbers': numbers,
            'series': self.record.as_curves(),
            'layers': {**tables, 'density': {layer: values[0] for layer, values in density.items() if values}},
            'seconds': self.record.seconds,
            'confusion': self.record.confusion,
            'config': runner.cfg.pretty_text,
            'origin': origin(runner.seed),
        }
        started = time.monotonic()
        try:
            page = (write_report if draw else write_record)(Path(runner.work_dir), record)
        except OSError as error:  # a training does not end for want of its pictures
            runner.logger.warning(f'The report is not complete: {error}; pab report draws what report.json holds')
            return None
        if not draw:
            return page
        self._next_page = time.monotonic() + PAUSE * (time.monotonic() - started)
        self.record.spent('report')
        return page


def _shots_done(runner: PabRunner) -> int:
    return sum(getattr(hook, 'shots_done', 0) for hook in runner.hooks)


def _last(hub, name: str, count: int) -> list[float]:
    return hub.log_scalars[name].data[0][-count:].tolist() if name in hub.log_scalars else []


def _layer(name: str) -> str:
    return name.removesuffix('.weight')


@torch.no_grad()
def weights_left(network: nn.Module) -> dict[str, tuple[int, int]]:
    """Name -> (kept, all) for every weight with a mask, and for every one in whose place another is used.

    Of the latter those are kept whose used weight is not 0 (see :mod:`pab.contracts`).
    """
    kept = get_masks(network)
    kept |= {name: layer.used_weight() != 0 for name, layer in layers_with_used_weight(network).items()}
    return {name: (int(marks.sum()), marks.numel()) for name, marks in kept.items()}
