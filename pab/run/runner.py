"""mmengine's runner with a short console log, a config checked before anything is built, and checkpoints that last."""

import functools
import logging
import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, OptimWrapperDict, _ParamScheduler
from mmengine.runner import BaseLoop, Runner, load_state_dict
from torch import nn
from torch.utils.data import DataLoader

from ..contracts import learning_rates, sign_optimizers
from ..datasets import classes_in, settle_auto
from ..files import write_atomically
from ..registry import RUNNERS
from ..state_dicts import renamed
from .checkpoint import UnusableCheckpoint, as_start, check_fits, check_resumable, load_any, non_finite
from .config import FixedConfig, check_config, check_schedules, plain_config, suggest
from .distributed import check_settings_agree
from .face import RunFace, on_first_process, single_wrappers
from .hook_points import check_hook
from .loops import EnduringLoader, check_loop
from .schedulers import Schedulers
from .storage import ATOMIC, LogFile, check_writable, download
from .work_dir import NOT_FOR_RESUME, checkpoint_folders, choose_start, locked

ENDLESS = int(1e9)  # mmengine's end of a schedule that has none


@RUNNERS.register_module()
class PabRunner(RunFace, Runner):
    """The runner that the commands of pab use.

    It differs from mmengine's in this; hooks may have more methods (:class:`pab.run.RunHook`) and ask more
    (:class:`pab.run.RunFace`), and

    - a key of the config that nothing reads is an error, and so is a hook's method that nothing calls;
    - the console shows progress, results and warnings only, while the log file in the work dir has everything;
    - ``default_hooks=dict(name=None)`` also drops hooks that mmengine does not know;
    - checkpoints are plain data, written atomically and only if their numbers are finite, and loaded only if they run
      no code and fit the model; a resume finds them by what they hold;
    - training does not begin in a folder with the checkpoints of another run unless the config has ``overwrite=True``.
    """

    began = False  # whether all is checked and the first step comes next
    _outdated: list[Path] = []
    _schedules_before: dict | list | None = None  # their states in the file that a run resumes from
    _read: tuple[str, dict] | None = None  # a file that was found good when the start was chosen, and its content

    @classmethod
    def from_cfg(cls, cfg: Config) -> 'PabRunner':
        """Build a runner; ValueError for a config with a key that nothing reads, OSError without a work dir."""
        cfg = plain_config(cfg)
        check_config(cfg)
        try:
            settle_auto(cfg)
        except FileNotFoundError:
            start = cfg.get('load_from')
            trained = classes_in(load_any(start)) if start and '://' not in start else None
            if trained is None:
                raise
            settle_auto(cfg, len(trained))  # for a test, the training data need not be there
        on_first_process(lambda: check_writable(cfg['work_dir']))
        return super().from_cfg(FixedConfig(dict(cfg), filename=cfg.filename))

    def setup_env(self, env_cfg: dict) -> None:
        """Set up mmengine's environment; ValueError if the processes have not the same settings and versions."""
        super().setup_env(env_cfg)
        check_settings_agree(self.cfg.to_dict())

    def build_logger(self, log_level: int | str = 'INFO', log_file: str | None = None, **kwargs) -> MMLogger:
        """Build mmengine's logger and keep its console output short."""
        logger = super().build_logger(log_level, log_file, **kwargs)
        # mmengine says so of every run that goes on between the passes of a step, but checkpoints hold the gradients
        logger.addFilter(lambda record: 'the gradient of some iterations is lost' not in record.getMessage())
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                handler.addFilter(is_for_console)  # a second time it changes nothing
            elif type(handler) is logging.FileHandler:
                handler.__class__ = LogFile  # mmengine lets nobody choose it
        return logger

    def register_default_hooks(self, hooks: dict[str, Hook | dict | None] | None = None) -> None:
        """Register default hooks; None drops one, whoever it comes from."""
        known = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
        kept = {name: hook for name, hook in (hooks or {}).items() if hook is not None or name in known}
        super().register_default_hooks(kept)

    def register_hook(self, hook: Hook | dict, priority: str | int | None = None) -> None:
        """Register a hook; ValueError if it has a method that is named like a point of a run and is none."""
        before = set(self._hooks)
        super().register_hook(hook, priority)
        for added in set(self._hooks) - before:
            check_hook(added)

    def register_hooks(self, *args, **kwargs) -> None:
        """Register the config's hooks, and those of every run, for data, metrics, moving weights and checkpoints."""
        super().register_hooks(*args, **kwargs)
        self.register_hook(dict(type='pab.MovesHook'))
        self.register_hook(dict(type='pab.DataCheckHook'))  # first, as it knows why a topk gives no metric
        self.register_hook(dict(type='pab.MetricCheckHook'))
        self.register_hook(dict(type='pab.CheckpointFormatHook'))

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args, **kwargs) -> DataLoader:
        """Build mmengine's loader, which then also gives its batches after its workers have been ended."""
        loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        if type(loader) is DataLoader:
            loader.__class__ = EnduringLoader  # mmengine lets nobody choose it
        return loader

    def dump_config(self) -> None:
        """Write the config into the work dir, once the training begins; mmengine would before the run is refused."""
        if not self.trains or self.began:
            return
        self.began = True
        if is_main_process():
            name = Path(self.cfg.filename).name if self.cfg.filename else f'{self.timestamp}.py'
            write_atomically(self.cfg.dump().encode(), Path(self.work_dir) / name)

    def train(self) -> nn.Module:
        """Train, in a work dir that is new, that this run goes on in, or that it may overwrite; else errors as there.

        A resume without a file's name takes the newest good checkpoint (:func:`choose_start`). Where there is none, the
        run begins anew with a warning, so that a cluster can always start a job with ``--resume``. Another process that
        trains in the same folder is an error (:func:`locked`).
        """
        with ExitStack() as held:
            for folder in checkpoint_folders(self):
                self.on_first_process(lambda folder=folder: held.enter_context(locked(folder, self.logger.warning)))
            start, self._outdated = self.on_first_process(self._choose_start)
            if self.resumes and start is None:
                told = f'There is no checkpoint to resume from in {self.work_dir}'
                self.logger.warning(f'{told}: training starts from the beginning')
            self._resume, self._load_from = start is not None, start or self._load_from
            if start and hasattr(self.bare_model, 'weights'):
                self.bare_model.weights = None  # the checkpoint has all of them, and the file may be gone
            try:
                return super().train()
            finally:
                self.call_hook('after_exit')

    def build_optim_wrapper(self, optim_wrapper: dict | OptimWrapper) -> OptimWrapper | OptimWrapperDict:
        """Build the optimizers; ValueError for a sign optimizer alone, whose learning rate mmengine would ask for."""
        wrapper = super().build_optim_wrapper(optim_wrapper)
        if not isinstance(wrapper, OptimWrapperDict) and sign_optimizers([wrapper.optimizer]):
            raise ValueError(
                f'optim_wrapper: {type(wrapper.optimizer).__name__} flips signs and has no learning rate; write '
                "dict(constructor='OwnershipConstructor', optimizers=dict(...)), where other optimizers own the rest"
            )
        return wrapper

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop; ValueError for another than ours, which counts in epochs and resumes exactly."""
        built = super().build_train_loop(loop)
        check_loop(type(built))
        return built

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict | None = None) -> None:
        """Scale the learning rates by batch of a step / ``base_batch_size`` if ``auto_scale_lr.enable``.

        The batch of a step is that of all processes and of all backward passes which ``accumulative_counts`` collects.
        Optimizers without a learning rate stay as they are. Source: Goyal et al. 2017 (arXiv 1706.02677).
        """
        if not (auto_scale_lr or {}).get('enable'):
            return
        wrappers, loader = single_wrappers(optim_wrapper), self._train_dataloader
        base = auto_scale_lr['base_batch_size']
        batch = loader['batch_size'] if isinstance(loader, dict) else loader.batch_size
        batch *= self.world_size * wrappers[0]._accumulative_counts
        groups = learning_rates(wrapper.optimizer for wrapper in wrappers)
        for group in groups:
            group['lr'] *= batch / base
        shown = ', '.join(f'{group["lr"]:g}' for group in groups)
        scaled = '' if batch == base else f', scaled from one of {base}'
        self.logger.info(f'Learning rates for a batch of {batch}{scaled}: {shown}')

    def build_param_scheduler(self, scheduler):
        """Build the schedules; ValueError unless each optimizer has one entry, which moves a setting that it has."""
        if isinstance(self.optim_wrapper, OptimWrapperDict):
            check_schedules(scheduler, self.optim_wrapper.keys())
            for name, entries in scheduler.items():
                has = sorted({*self.optim_wrapper[name].optimizer.param_groups[0]} - {'params'})
                for entry in entries if isinstance(entries, list | tuple) else [entries]:
                    moved = entry.get('param_name') if isinstance(entry, Mapping) else None
                    if moved is not None and moved not in has:
                        hint = suggest(moved, has, 'its settings are')
                        raise ValueError(f'param_scheduler.{name}: the optimizer has no {moved!r} to move; {hint}')
        try:
            built = super().build_param_scheduler(scheduler)
        except ValueError as error:  # mmengine's, without the key
            raise ValueError(f'param_scheduler: {error}') from error
        for name, schedules in built.items() if isinstance(built, dict) else [('', built)]:
            for schedule in schedules:
                self._warn_of_unfinished(schedule, f'param_scheduler{name and "."}{name}')
        return built

    def _warn_of_unfinished(self, schedule: _ParamScheduler, where: str) -> None:
        """Say that a schedule with an end goes on after that of the run."""
        length = self.max_epochs if schedule.by_epoch else self.max_iters
        # mmengine cuts a cosine at the run's end unless it is given one
        steps = getattr(schedule, 'T_max', getattr(schedule, 'total_steps', None))
        end = schedule.end if steps is None else schedule.begin + steps
        if length < end < ENDLESS:
            unit = 'epochs' if schedule.by_epoch else 'steps'
            self.logger.warning(
                f'{where}: {type(schedule).__name__} takes {end} {unit} and the run has {length}, so '
                f'{schedule.param_name} does not reach its end; set end (T_max of a cosine, total_steps of one cycle), '
                'or the length of the run'
            )

    def save_checkpoint(self, out_dir: str, filename: str, *args, backend_args: dict | None = None, **kwargs) -> None:
        """Save a checkpoint, atomically unless ``backend_args`` says otherwise; to be called on every process.

        Raises:
            FloatingPointError: :meth:`non_finite` finds something, and the file's name does not begin with diverged_.
            OSError: the file cannot be written; those written before are untouched.
        """
        if not filename.startswith(NOT_FOR_RESUME) and (bad := self.non_finite()):
            raise FloatingPointError(
                f'{filename} is not written, because {bad} is not finite; go on from a checkpoint before it by '
                '--resume, with a lower learning rate or gradient clipping (optim_wrapper.clip_grad)'
            )
        self.call_hook('before_checkpoint')
        if backend_args is None and '://' not in str(out_dir):
            backend_args = dict(backend=ATOMIC)
        super().save_checkpoint(out_dir, filename, *args, backend_args=backend_args, **kwargs)

    def non_finite(self) -> str | None:
        """The name of the first weight or state of an optimizer (no buffer) that holds NaN or infinity, else None."""
        states = self.optim_wrapper.state_dict() if hasattr(self.optim_wrapper, 'state_dict') else None
        return non_finite({**dict(self.bare_model.named_parameters()), 'optimizer': states})

    def load_or_resume(self) -> None:
        """Load or resume what the config says, then remove the checkpoints that this run may overwrite."""
        self._load_from = self._fetch(self._load_from)
        super().load_or_resume()
        if self._outdated and is_main_process():
            for path in self._outdated:
                path.unlink(missing_ok=True)
            self.logger.info(f'Removed, as told by overwrite: {", ".join(path.name for path in self._outdated)}')
        self._outdated = []

    def resume(self, filename: str, *args, **kwargs) -> None:
        """Go on from a checkpoint; a run whose config leaves the seed open goes on with the one it had drawn."""
        seed_was_drawn = self.seed_is_open
        built = self.param_schedulers or []
        lists = built.values() if isinstance(built, dict) else [built]
        schedulers = Schedulers(single_wrappers(self.optim_wrapper), [one for entry in lists for one in entry])
        super().resume(filename, *args, **kwargs)
        saved, self._schedules_before = self._schedules_before, None
        pairs = [(saved or [], built)]
        if isinstance(built, dict):
            pairs = [(states, built.get(name, [])) for name, states in (saved or {}).items()]
        dropped = any(len(before) > len(now) for before, now in pairs)
        for told in schedulers.settle(self.epoch, self.iter, len(self.train_dataloader), dropped):
            self.logger.info(told)
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

        A run that does not resume takes a state dict of the network alone, too; one that trains a dense one, which
        it prunes, and with ``new_head=True`` in its config one with a head for another number of classes.

        Args:
            filename: a file, or an address of file, http or https.
            map_location: where its tensors go.
            strict: refuse tensors that are missing, too many or of another shape; False reports them as mmengine does.
            revise_keys: (pattern, replacement) for the names of its tensors.

        Raises as :func:`load_any` does, and UnusableCheckpoint for what does not fit or cannot be resumed.
        """
        filename = self._fetch(filename)
        read, self._read, model = self._read, None, self.bare_model
        is_checked = read is not None and read[0] == filename
        checkpoint = read[1] if is_checked else load_any(filename, map_location)
        if not isinstance(checkpoint, Mapping):
            raise UnusableCheckpoint(f'{filename} is no checkpoint: it holds a {type(checkpoint).__name__}')
        if 'state_dict' not in checkpoint:
            checkpoint = {'state_dict': checkpoint}
        if self.resumes:
            if not is_checked:
                check_resumable(checkpoint, filename, model)
            self.call_hook('check_resume', checkpoint=checkpoint)
            self._schedules_before = checkpoint.get('param_schedulers')
        state = checkpoint['state_dict']
        for pattern, replacement in revise_keys:
            state = renamed(state, functools.partial(re.sub, pattern, replacement))
        told = ''
        if not self.resumes:
            new_head = self.cfg.get('new_head', False) and not self.evaluates
            state, told, head = as_start(model, state, new_head, dense=self.trains)
            if head:  # the classes that the file names are those of its own head
                (checkpoint.get('meta') or {}).pop('dataset_meta', None)
        checkpoint['state_dict'] = state
        if strict:
            check_fits(model, state, filename)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        load_state_dict(model, checkpoint['state_dict'], strict=strict, logger=self.logger)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}{told and ": "}{told}')
        return checkpoint

    def _choose_start(self) -> tuple[str | None, list[Path]]:
        start, content, outdated = choose_start(self)
        self._read = None if content is None else (start, content)  # of this process only
        return start, outdated

    def _fetch(self, source: str | None) -> str | None:
        """A path on this machine for a path or an address; a download is done by the first process."""
        if source is None or '://' not in source:
            return source and os.path.expanduser(source)
        return self.on_first_process(lambda: download(source, Path(self.work_dir) / 'downloads'))


def is_for_console(record: logging.LogRecord) -> bool:
    """Tell if a person watching a run wants a record: progress, results, what pab reports, and every warning."""
    path, text = record.pathname, record.getMessage()
    if '/mmengine/' not in path:
        return True
    if record.levelno >= logging.WARNING:
        return 'will be deprecated' not in text  # of its own functions, which it calls itself
    return path.endswith('/hooks/logger_hook.py') and not text.startswith('Exp name:')
