"""Stop a run that no longer improves."""

from mmengine.hooks import EarlyStoppingHook as MMEngineEarlyStoppingHook

from ...registry import HOOKS
from ...run import PabRunner

KEY = 'early_stopping'  # of a checkpoint
SETTINGS = ('rule', 'min_delta', 'check_finite', 'patience', 'stopping_threshold')


@HOOKS.register_module()
class EarlyStoppingHook(MMEngineEarlyStoppingHook):
    """mmengine's EarlyStoppingHook, which says on the console that the run stops, and whose state is in checkpoints.

    A run that was stopped ends at once when it is resumed, unless the hook has other settings then. Arguments and
    defaults are mmengine's: ``min_delta`` of 0.1 is a tenth of a per cent for an accuracy, and large for a loss.
    """

    priority = 'LOW'  # the checkpoint that a new best result writes has the state after it

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._stopped: str | None = None  # when and why

    def before_run(self, runner: PabRunner) -> None:
        """Do nothing: mmengine's would build a training, also for a test."""

    def before_train(self, runner: PabRunner) -> None:
        """Stop a run that was stopped."""
        if self._stopped:
            runner.train_loop.stop_training = True
            way_out = 'to go on, change its settings and give --allow-changes'
            runner.logger.warning(f'This run was {self._stopped}; {way_out}')

    def after_val_epoch(self, runner: PabRunner, metrics: dict[str, float]) -> None:
        if not runner.trains or runner.train_loop.stop_training:
            return
        super().after_val_epoch(runner, metrics)
        if runner.train_loop.stop_training:
            told = f'best {self.best_score:.4g}, {self.wait_count} validations without an improvement'
            self._stopped = (
                f'stopped after epoch {runner.epoch} by EarlyStoppingHook: {self.monitor} {metrics[self.monitor]:.4g}, '
                f'{told}'
            )
            runner.logger.info(f'This run is {self._stopped}')

    def before_save_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        state = dict(stopped=self._stopped, wait_count=self.wait_count, best_score=self.best_score)
        checkpoint.setdefault(KEY, {})[self.monitor] = {**state, 'settings': self._settings()}

    def after_load_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        if runner.resumes and (state := checkpoint.get(KEY, {}).get(self.monitor)):
            self.wait_count, self.best_score = state['wait_count'], state['best_score']
            self._stopped = state['stopped'] if state['settings'] == self._settings() else None

    def _settings(self) -> dict:
        return {name: getattr(self, name) for name in SETTINGS}
