"""The form of checkpoints: plain data, of which a run goes on exactly."""

import os
import time
from pathlib import Path

import torch
from mmengine.dist import gather_object, get_rank
from mmengine.hooks import EMAHook
from torch import Tensor

from ...machine import arithmetic
from ...registry import HOOKS
from ...run import PabRunner, RunHook
from ...run.checkpoint import UnusableCheckpoint, history_from_plain, to_plain
from ...run.work_dir import checkpoint_folders

PARTIAL = 'partial_gradients'  # the key for gradients of a step that is not complete


@HOOKS.register_module()
class CheckpointFormatHook(RunHook):
    """Write into checkpoints what a run needs to go on exactly, as plain data; turn it back when they are read.

    Plain data are tensors, numbers, strings and the containers of python; ``torch.load(weights_only=True)`` refuses
    mmengine's own objects. What has no plain form is left out and named in a warning, once. To mmengine's content the
    hook adds ``meta.epoch_length`` (steps), ``meta.written`` (a time in ns, later than in all checkpoints of the run
    before), ``meta.arithmetic`` (:func:`pab.machine.arithmetic`; a resume with another warns), and, where several
    backward passes make one step and some are done, the gradients so far of every process.
    """

    priority = 'LOWEST'
    changes_training = False

    def __init__(self) -> None:
        self._reported: set[str] = set()
        self._written, self._gradients = 0, None

    def before_checkpoint(self, runner: PabRunner) -> None:
        """Collect the gradients of an incomplete step, of which every process has its own."""
        if runner.is_within_update:
            own = {n: p.grad.cpu() for n, p in runner.bare_model.named_parameters() if p.grad is not None}
            self._gradients = gather_object(own)

    def before_save_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        """Add what is missing, and convert everything but tensors by name, which are plain already."""
        self._written = max(time.time_ns(), self._written + 1)
        here = {'epoch_length': len(runner.train_dataloader), 'arithmetic': arithmetic(device_of(runner))}
        checkpoint['meta'].update(here, written=self._written)
        if self._gradients and 'optimizer' in checkpoint:
            counts = runner.passes_per_update
            checkpoint[PARTIAL] = {'accumulative_counts': counts, 'of_processes': self._gradients}
        self._gradients = None
        dropped: list[str] = []
        for key, value in checkpoint.items():
            if not (isinstance(value, dict) and all(isinstance(v, Tensor) for v in value.values())):
                checkpoint[key] = to_plain(value, key, dropped)
        if new := sorted({*dropped} - self._reported):
            self._reported.update(new)
            runner.logger.warning(f'left out of checkpoints, because they have no plain form: {", ".join(new)}')

    def after_load_checkpoint(self, runner: PabRunner, checkpoint: dict) -> None:
        """Turn plain data into what mmengine's ``resume`` expects, and settle what this run sees differently."""
        meta = checkpoint.setdefault('meta', {})
        meta.pop('config', None)  # mmengine's resume would run it
        if not runner.resumes:
            return
        self._written = meta.get('written', 0)
        self._compare_machines(runner, meta.get('arithmetic') or {})
        if 'ema_state_dict' in checkpoint and not any(isinstance(hook, EMAHook) for hook in runner.hooks):
            _take_trained_weights(checkpoint)
            runner.logger.info('There is no EMAHook any more: the run goes on from its own weights, not their averages')
        if not runner.seed_is_open:
            meta['seed'] = runner.seed  # a changed seed was allowed, so it is the one that counts
        hub = checkpoint['message_hub']
        hub['log_scalars'] = {name: history_from_plain(value) for name, value in hub['log_scalars'].items()}
        known = {*hub['log_scalars'], *hub['runtime_info']}
        hub['resumed_keys'] = {key: value for key, value in hub['resumed_keys'].items() if key in known}
        for key, value in hub['runtime_info'].items():
            # the folder may have been moved or copied; what is in another one is not this run's to remove
            if key.startswith(('best_ckpt', 'last_ckpt')) and isinstance(value, str):
                hub['runtime_info'][key] = os.path.join(checkpoint_folders(runner)[-1], Path(value).name)
        # mmengine would compare the pickled forms, which differ for equal objects, and warn
        metainfo = getattr(runner.train_dataloader.dataset, 'metainfo', None)
        if repr(to_plain(metainfo, 'metainfo', [])) == repr(meta.get('dataset_meta')):
            meta['dataset_meta'] = metainfo
        here = len(runner.train_dataloader)
        before = meta.get('epoch_length', here)
        if before != here and meta['iter'] != meta['epoch'] * before:
            raise UnusableCheckpoint(
                f'resume: the checkpoint was written in the middle of an epoch of {before} steps, and an epoch now has '
                f'{here}; resume with the batch size and number of processes of that run, or an epoch_*.pth'
            )
        meta['iter'] += meta['epoch'] * (here - before)
        if partial := checkpoint.get(PARTIAL):
            counts, gradients = runner.passes_per_update, partial['of_processes']
            if (partial['accumulative_counts'], len(gradients)) != (counts, runner.world_size):
                runner.logger.warning('The gradients of an incomplete step are left out: its parts are others now')
                return
            own = gradients[get_rank()]
            for name, param in runner.bare_model.named_parameters():
                param.grad = own[name].to(param.device) if name in own else None

    def _compare_machines(self, runner: PabRunner, before: dict[str, str]) -> None:
        here = arithmetic(device_of(runner))
        changes = [f'{name} {before[name]}, now {here.get(name)}' for name in before if before[name] != here.get(name)]
        if changes:
            why = f'because its first part was computed otherwise: {"; ".join(changes)}'
            runner.logger.warning(f'The run goes on, but not bit for bit, {why}')


def device_of(runner: PabRunner) -> torch.device:
    """The device that a run trains on."""
    return next(runner.bare_model.parameters()).device


def _take_trained_weights(checkpoint: dict) -> None:
    """Undo the exchange of mmengine's EMAHook, which saves averages as the model and the model's weights with them."""
    state, trained = checkpoint['state_dict'], checkpoint['ema_state_dict']
    state.update({name: trained[f'module.{name}'] for name in state if f'module.{name}' in trained})
