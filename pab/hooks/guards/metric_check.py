"""Compare the metrics that a run waits for with the ones its validation gives, before the first step."""

from collections.abc import Iterator

from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.optim import ReduceOnPlateauParamScheduler

from ...registry import HOOKS
from ...run import PabRunner, RunHook
from ...run.config import suggest


@HOOKS.register_module()
class MetricCheckHook(RunHook):
    """Refuse a run that waits for a metric which its validation does not give; every run has this hook.

    Asked are hooks that keep the best checkpoint, stop early or report, and schedules that wait for a plateau. A metric
    says by ``metric_keys`` what it gives; where one does not, nothing is refused.

    Raises:
        ValueError: from a run, before its first step; it names the setting and the metrics that there are.
    """

    changes_training = False
    priority = 'VERY_HIGH'  # before anything prunes

    def before_train(self, runner: PabRunner) -> None:
        metrics = runner.val_loop.evaluator.metrics if runner.val_loop else []
        if not metrics or not all(hasattr(metric, 'metric_keys') for metric in metrics):
            return
        given = {f'{metric.prefix or ""}/{key}'.lstrip('/') for metric in metrics for key in metric.metric_keys}
        for setting, key in _awaited(runner):
            if key not in given:
                raise ValueError(f'{setting}: val_evaluator has no metric {key!r}; {suggest(key, given, "it has")}')


def _awaited(runner: PabRunner) -> Iterator[tuple[str, str]]:
    """(setting, metric) of everything in a run that waits for one."""
    for hook in runner.hooks:
        name = type(hook).__name__
        if isinstance(hook, CheckpointHook) and hook.save_best:
            best = [hook.save_best] if isinstance(hook.save_best, str) else hook.save_best
            yield from ((f'{name}.save_best', key) for key in best if key != 'auto')
        if isinstance(hook, EarlyStoppingHook):
            yield f'{name}.monitor', hook.monitor
        if getattr(hook, 'writes_report', False):
            yield f'{name}.metric', hook.metric
    schedules = runner.param_schedulers or []
    for group in schedules.values() if isinstance(schedules, dict) else [schedules]:
        yield from (
            ('param_scheduler: monitor', s.monitor) for s in group if isinstance(s, ReduceOnPlateauParamScheduler)
        )
