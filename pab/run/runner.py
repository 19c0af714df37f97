"""mmengine's runner with a short console log, a config checked before anything is built, and checkpoints that last."""

import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import CheckpointLoader, Runner, load_state_dict
from torch import nn

from ..compact.checkpoint import as_checkpoint
from ..registry import RUNNERS
from .config import SettledConfig, check_config
from .loading import UnusableCheckpoint, check_fits, check_resumable, find_newest, load_safely
from .lr_scale import scale_lr_
from .plain import history_from_plain, to_plain
from .storage import ATOMIC, check_writable


@RUNNERS.register_module()
class PabRunner(Runner):
    """The runner that ``tools/`` use.

    It differs from :class:`mmengine.runner.Runner` in four ways: a key of the config that nothing reads is an error;
    the console shows progress, results and warnings only, while the log file in the work dir has everything;
    ``default_hooks=dict(name=None)`` also drops hooks that mmengine does not know; and checkpoints are plain data,
    written atomically, found by what they hold and not by a note of where they were, and loaded only when they run no
    code and fit the model.

    Hooks may have more methods: ``before_checkpoint(runner)``, called before a checkpoint's content is collected;
    ``check_resume(runner, checkpoint)``, called with the content of a checkpoint before anything is taken from it;
    ``after_failed_fetch(runner)``, called when the loader raises; and ``after_exit(runner)``, called when :meth:`train`
    ends, however it does.
    """

    @classmethod
    def from_cfg(cls, cfg: Config) -> 'PabRunner':
        """Build a runner from a config.

        Raises:
            ValueError: the config has a key that nothing reads.
            OSError: the work dir cannot be written.
        """
        check_config(cfg)
        if is_main_process():
            check_writable(cfg['work_dir'])
        return super().from_cfg(SettledConfig(dict(cfg), filename=getattr(cfg, 'filename', None)))

    def build_logger(self, log_level: int | str = 'INFO', log_file: str | None = None, **kwargs) -> MMLogger:
        """Build mmengine's logger and keep its console output short."""
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler and not any(
                isinstance(f, ConsoleFilter) for f in handler.filters
            ):
                handler.addFilter(ConsoleFilter())
        return logger

    def register_default_hooks(self, hooks: dict[str, Hook | dict | None] | None = None) -> None:
        """Register default hooks; None drops one, whoever it comes from."""
        known = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
        super().register_default_hooks(
            {name: hook for name, hook in (hooks or {}).items() if hook is not None or name in known}
        )

    def register_hooks(
        self, default_hooks: dict[str, Hook | dict | None] | None = None, custom_hooks: list[Hook | dict] | None = None
    ) -> None:
        """Register the config's hooks, and behind them the one that makes checkpoints plain."""
        super().register_hooks(default_hooks, custom_hooks)
        self.register_hook(dict(type='pab.PlainCheckpointHook'))

    def train(self) -> nn.Module:
        """Train."""
        try:
            return super().train()
        finally:
            self.call_hook('after_exit')

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict | None = None) -> None:
        """Scale the learning rates by batch of a step / ``base_batch_size`` if ``auto_scale_lr.enable``.

        The batch of a step is that of all processes and of all backward passes which ``accumulative_counts`` collects.
        Optimizers without a learning rate are left alone.
        """
        if not (auto_scale_lr or {}).get('enable'):
            return
        wrappers = list(optim_wrapper.values()) if isinstance(optim_wrapper, OptimWrapperDict) else [optim_wrapper]
        loader = self._train_dataloader
        batch = loader['batch_size'] if isinstance(loader, dict) else loader.batch_size
        batch *= self.world_size * wrappers[0]._accumulative_counts
        base = auto_scale_lr['base_batch_size']
        rates = scale_lr_([wrapper.optimizer for wrapper in wrappers], batch / base)
        shown = ', '.join(f'{rate:g}' for rate in rates)
        self.logger.info(f'Learning rates for a batch of {batch} instead of {base}: {shown}')

    def build_param_scheduler(self, scheduler):
        """Build the schedules of the optimizers.

        Raises:
            ValueError: several optimizers, and not one entry for each of them.
        """
        if isinstance(self.optim_wrapper, OptimWrapperDict):
            names = sorted(self.optim_wrapper.keys())
            known = isinstance(scheduler, Mapping) and 'type' not in scheduler
            if not known or sorted(scheduler) != names:
                got = sorted(scheduler) if known else scheduler
                raise ValueError(
                    f'param_scheduler: needs one entry for each optimizer, {", ".join(names)}, such as dict('
                    f'{", ".join(f"{name}=[]" for name in names)}), where [] keeps what is set; got {got!r}'
                )
        return super().build_param_scheduler(scheduler)

    def save_checkpoint(self, out_dir: str, filename: str, *args, backend_args: dict | None = None, **kwargs) -> None:
        """Save a checkpoint, atomically unless ``backend_args`` says otherwise.

        Raises:
            OSError: the file cannot be written; those written before are untouched.
        """
        self.call_hook('before_checkpoint')
        if backend_args is None and '://' not in str(out_dir):
            backend_args = dict(backend=ATOMIC)
        super().save_checkpoint(out_dir, filename, *args, backend_args=backend_args, **kwargs)

    def load_or_resume(self) -> None:
        """Load or resume what the config says; without a file's name, resume from the newest good one.

        Where there is none to resume from, a run begins anew with a warning, so that a job which is restarted by a
        cluster can always be started with ``--resume``.

        Raises:
            UnusableCheckpoint: there are checkpoints, but all of them are damaged.
        """
        if self._resume and self._load_from is None and not self._has_loaded:
            self._load_from = self._find_newest()
            if self._load_from is None:
                self._resume = False
                self.logger.warning(
                    f'There is no checkpoint to resume from in {self.work_dir}: training starts from the beginning'
                )
        super().load_or_resume()

    def resume(self, filename: str, *args, **kwargs) -> None:
        """Go on from a checkpoint; a run whose config leaves the seed open goes on with the one it had drawn."""
        seed_was_drawn = self._randomness_cfg.get('seed') is None
        super().resume(filename, *args, **kwargs)
        if seed_was_drawn and hasattr(self.train_dataloader.sampler, 'seed'):
            self.train_dataloader.sampler.seed = self.seed  # the loader was built before that seed was known

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | Callable = 'cpu',
        strict: bool = True,
        revise_keys: list[tuple[str, str]] = [(r'^module\.', '')],  # noqa: B006
    ) -> dict:
        """Load a checkpoint into the model; nothing is taken from one that runs code, is damaged or does not fit.

        Args:
            filename: a file, or an address that mmengine's ``CheckpointLoader`` knows.
            map_location: where its tensors go.
            strict: refuse tensors that are missing, too many or of another shape; False reports them as mmengine does.
            revise_keys: (pattern, replacement) for the names of its tensors.

        Raises:
            UnusableCheckpoint: says what is wrong with it.
            FileNotFoundError: there is no such file.
        """
        if '://' in str(filename):
            checkpoint = CheckpointLoader.load_checkpoint(filename, map_location, self.logger)
        elif str(filename).endswith('.pab'):
            checkpoint = as_checkpoint(filename)
        else:
            checkpoint = load_safely(filename, map_location)
        if not isinstance(checkpoint, Mapping):
            raise UnusableCheckpoint(f'{filename} is no checkpoint: it holds a {type(checkpoint).__name__}')
        if 'state_dict' not in checkpoint:
            checkpoint = {'state_dict': checkpoint}
        if self._resume:
            check_resumable(checkpoint, filename)
            self.call_hook('check_resume', checkpoint=checkpoint)
        for pattern, replacement in revise_keys:
            checkpoint['state_dict'] = {
                re.sub(pattern, replacement, name): value for name, value in checkpoint['state_dict'].items()
            }
        model = self.model.module if is_model_wrapper(self.model) else self.model
        if strict:
            check_fits(model, checkpoint['state_dict'], filename)
        self._restore_objects(checkpoint)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        load_state_dict(model, checkpoint['state_dict'], strict=strict, logger=self.logger)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def _find_newest(self) -> str | None:
        """The newest checkpoint, as the first process sees it; the others are told, errors included."""
        outcome: list = [None]
        if is_main_process():
            try:
                outcome[0] = find_newest([self.work_dir, *self._checkpoint_folders()], self.logger.warning)
            except UnusableCheckpoint as error:
                outcome[0] = error
        broadcast_object_list(outcome)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return None if outcome[0] is None else str(outcome[0])

    def _checkpoint_folders(self) -> list[str]:
        """Where the config's CheckpointHooks write beside the work dir."""
        out_dirs = [h.out_dir for h in self.hooks if isinstance(h, CheckpointHook) and h.out_dir]
        return [os.path.join(folder, os.path.basename(self.work_dir)) for folder in out_dirs]

    def _restore_objects(self, checkpoint: dict) -> None:
        """Turn plain data into what mmengine's ``resume`` and other hooks expect."""
        meta = checkpoint.setdefault('meta', {})
        meta.pop('config', None)  # mmengine's resume would run it
        if self._randomness_cfg.get('seed') is not None:
            meta['seed'] = self._randomness_cfg['seed']  # a changed seed was allowed, so it is the one that counts
        hub = checkpoint.get('message_hub')
        if not isinstance(hub, dict):
            return
        hub['log_scalars'] = {name: history_from_plain(value) for name, value in hub['log_scalars'].items()}
        known = {*hub['log_scalars'], *hub['runtime_info']}
        hub['resumed_keys'] = {key: value for key, value in hub['resumed_keys'].items() if key in known}
        folder = next(iter(self._checkpoint_folders()), self.work_dir)
        for key, value in hub['runtime_info'].items():
            # the folder may have been moved or copied; what is in another one is not this run's to remove
            if key.startswith(('best_ckpt', 'last_ckpt')) and isinstance(value, str):
                hub['runtime_info'][key] = os.path.join(folder, Path(value).name)
        if self._resume:
            self._settle_epoch(meta)
            self._settle_dataset_meta(meta)

    def _settle_epoch(self, meta: dict[str, Any]) -> None:
        """Count the steps so far in epochs of this run's length, which can only be done between epochs."""
        before, here = meta.get('epoch_length'), len(self.train_dataloader)
        if before is None or before == here:
            return
        if meta['iter'] != meta['epoch'] * before:
            raise UnusableCheckpoint(
                f'resume: the checkpoint was written in the middle of an epoch of {before} steps, and an epoch now has '
                f'{here}; resume with the batch size and number of processes of that run, or an epoch_*.pth'
            )
        meta['iter'] = meta['epoch'] * here

    def _settle_dataset_meta(self, meta: dict[str, Any]) -> None:
        """Spare a warning: mmengine compares the pickled forms, which differ for equal objects."""
        here = getattr(self.train_dataloader.dataset, 'metainfo', None)
        if repr(to_plain(here, 'metainfo', [])) == repr(meta.get('dataset_meta')):
            meta['dataset_meta'] = here


class ConsoleFilter(logging.Filter):
    """Let through what a person watching a run wants: progress, results, what pab reports, and every warning.

    What is kept from the console (environment, hook tables, the merged config) stands in the log file.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the console shows a record."""
        path, text = record.pathname.replace('\\', '/'), record.getMessage()
        if '/mmengine/' not in path:
            return True
        if record.levelno >= logging.WARNING:
            return 'will be deprecated' not in text  # of its own functions, which it calls itself
        return path.endswith('/hooks/logger_hook.py') and not text.startswith('Exp name:')
