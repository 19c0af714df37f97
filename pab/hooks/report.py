"""What a run leaves for a person: a summary of a few lines, and a picture."""

import time
from datetime import timedelta
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..pruners import get_masks
from ..registry import HOOKS
from .parts import network_of

PICTURE = 'report.png'


@HOOKS.register_module()
class ReportHook(Hook):
    """Draw the run and sum it up when training ends.

    The picture, ``report.png`` in the work dir, shows the accuracy, the flip rate and the adaptivity rate over the
    epochs and each layer's density; it is drawn anew after every validation, so a run that goes on can be looked at.

    Args:
        metric: the validation metric that is reported, in per cent.
    """

    priority = 'LOW'  # a checkpoint that is written after a validation then holds its result

    def __init__(self, metric: str = 'accuracy/top1') -> None:
        self.metric = metric

    def before_train(self, runner: Runner) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Keep the accuracy, and draw."""
        if metrics and self.metric in metrics:
            runner.message_hub.update_scalars({'report/val_epoch': runner.epoch, 'report/metric': metrics[self.metric]})
        self._draw(runner)

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Sum up: accuracy, density, flips, and where everything is."""
        self._draw(runner)
        rows = [*self._results(runner), *self._places(runner)]
        lines = [f'  {name:<10}  {value}' for name, value in rows]
        elapsed = timedelta(seconds=round(time.monotonic() - self._started))
        runner.logger.info('\n'.join([f'Trained {runner.epoch} epochs, {elapsed} in this run', *lines]))

    def _results(self, runner: Runner) -> list[tuple[str, str]]:
        rows = []
        epochs, values = _history(runner, 'report/val_epoch'), _history(runner, 'report/metric')
        if values:
            best = max(range(len(values)), key=values.__getitem__)
            rows.append(('accuracy', f'{values[-1]:.2f} % (best {values[best]:.2f} % at epoch {epochs[best]:.0f})'))
        masks = get_masks(network_of(runner.model)).values()
        if masks:
            kept, total = sum(int(m.sum()) for m in masks), sum(m.numel() for m in masks)
            rows.append(('density', f'{kept / total:.4f} ({kept:,} of {total:,} prunable weights)'))
        if flips := _history(runner, 'flips/total'):
            rows.append(('flips', f'{flips[-1]:,.0f}'))
        return rows

    def _places(self, runner: Runner) -> list[tuple[str, str]]:
        places = {
            'checkpoint': runner.message_hub.get_info('last_ckpt'),
            'scalars': Path(runner.log_dir) / 'vis_data' / 'scalars.json',
            'picture': Path(runner.work_dir) / PICTURE,
        }
        return [(name, str(place)) for name, place in places.items() if place and Path(place).exists()]

    @master_only
    def _draw(self, runner: Runner) -> None:
        # matplotlib takes half a second to import, and not every process that knows this hook draws
        from .figure import draw_run

        curves = {'accuracy (%)': (_history(runner, 'report/val_epoch'), _history(runner, 'report/metric'))}
        for title, name in (('flip rate\n(per weight and step)', 'flips/rate'), ('adaptivity rate', 'adaptivity_rate')):
            values = _history(runner, name)
            curves[title] = range(runner.epoch - len(values) + 1, runner.epoch + 1), values
        masks = get_masks(network_of(runner.model))
        densities = {name.removesuffix('.weight'): float(mask.float().mean()) for name, mask in masks.items()}
        draw_run(Path(runner.work_dir) / PICTURE, Path(runner.work_dir).name, curves, densities)


def _history(runner: Runner, name: str) -> list[float]:
    buffers = runner.message_hub.log_scalars
    return buffers[name].data[0].tolist() if name in buffers else []
