"""What a checkpoint file holds: written as plain data, and read without running anything that a file might contain."""

import os
import re
import time
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import gather_object, get_rank
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn

from ..pruners import check_state_masks
from ..registry import HOOKS
from .hook_points import RunHook

RUN_KEYS = ('meta', 'state_dict', 'message_hub', 'optimizer')  # what a file must hold for a run to go on from it
HISTORY = 'history'  # the key that marks the plain form of a HistoryBuffer
PARTIAL = 'partial_gradients'  # the key for gradients of a step that is not complete


class UnusableCheckpoint(ValueError):
    """A file that cannot be used as a checkpoint: damaged, refused, or of something else."""


@HOOKS.register_module()
class CheckpointFormatHook(RunHook):
    """Write into checkpoints what a run needs to go on exactly, as plain data; turn it back when they are read.

    Plain data are tensors, numbers, strings and the containers of python; ``torch.load(weights_only=True)`` refuses
    mmengine's own objects. What has no plain form is left out and named in a warning, once. To mmengine's content the
    hook adds ``meta.epoch_length`` (steps), ``meta.written`` (a time in ns, later than in all checkpoints of the run
    before), and, where several backward passes make one step and some are done, the gradients so far of every process.
    """

    priority = 'LOWEST'  # after every hook that adds something

    def __init__(self) -> None:
        self._reported: set[str] = set()
        self._written, self._gradients = 0, None

    def before_checkpoint(self, runner: Runner) -> None:
        """Collect the gradients of an incomplete step, of which every process has its own."""
        wrapper = wrappers_of(runner.optim_wrapper)[0]
        if isinstance(wrapper, OptimWrapper) and not wrapper.should_update():
            own = {n: p.grad.cpu() for n, p in bare(runner.model).named_parameters() if p.grad is not None}
            self._gradients = gather_object(own)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add what is missing, and convert everything but tensors by name, which are plain already."""
        self._written = max(time.time_ns(), self._written + 1)
        checkpoint['meta'].update(epoch_length=len(runner.train_dataloader), written=self._written)
        if self._gradients and 'optimizer' in checkpoint:
            counts = wrappers_of(runner.optim_wrapper)[0]._accumulative_counts
            checkpoint[PARTIAL] = {'accumulative_counts': counts, 'of_processes': self._gradients}
        self._gradients = None
        dropped: list[str] = []
        for key, value in checkpoint.items():
            if not (isinstance(value, dict) and all(isinstance(v, Tensor) for v in value.values())):
                checkpoint[key] = to_plain(value, key, dropped)
        if new := sorted({*dropped} - self._reported):
            self._reported.update(new)
            runner.logger.warning(f'left out of checkpoints, because they have no plain form: {", ".join(new)}')

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Turn plain data into what mmengine's ``resume`` expects, and settle what this run sees differently."""
        meta = checkpoint.setdefault('meta', {})
        meta.pop('config', None)  # mmengine's resume would run it
        if not runner._resume:
            return
        self._written = meta.get('written', 0)
        if runner._randomness_cfg.get('seed') is not None:
            meta['seed'] = runner._randomness_cfg['seed']  # a changed seed was allowed, so it is the one that counts
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
            counts, gradients = wrappers_of(runner.optim_wrapper)[0]._accumulative_counts, partial['of_processes']
            if (partial['accumulative_counts'], len(gradients)) != (counts, runner.world_size):
                runner.logger.warning('The gradients of an incomplete step are left out: its parts are others now')
                return
            own = gradients[get_rank()]
            for name, param in bare(runner.model).named_parameters():
                param.grad = own[name].to(param.device) if name in own else None


def to_plain(value: Any, where: str, dropped: list[str]) -> Any:
    """Turn the value named ``where`` into tensors, dicts, lists, tuples, strings and numbers, sets into sorted lists.

    What has no plain form becomes None, and its name is added to ``dropped``.
    """
    if type(value) in (bool, int, float, complex, str, bytes, type(None)):
        return value
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, HistoryBuffer):
        values, counts = (torch.from_numpy(column.copy()) for column in value.data)
        return {HISTORY: {'values': values, 'counts': counts, 'max_length': value.max_length}}
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biufc':
        return torch.from_numpy(np.ascontiguousarray(value).copy())
    if isinstance(value, np.generic):
        return to_plain(value.item(), where, dropped)
    if isinstance(value, Mapping):
        return {to_plain(k, f'{where} key', dropped): to_plain(v, f'{where}.{k}', dropped) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    if isinstance(value, list | tuple):
        items = [to_plain(v, f'{where}[{i}]', dropped) for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if plain := next((kind for kind in (int, float, str) if isinstance(value, kind)), None):  # such as enums of them
        return plain(value)
    dropped.append(f'{where} ({type(value).__name__})')
    return None


def history_from_plain(value: Any) -> Any:
    """Turn the plain form of a HistoryBuffer back; other values pass unchanged."""
    if not (isinstance(value, Mapping) and set(value) == {HISTORY}):
        return value
    plain = value[HISTORY]
    return HistoryBuffer(plain['values'].cpu().numpy(), plain['counts'].cpu().numpy(), plain['max_length'])


def load_any(path: str | os.PathLike, map_location: Any = 'cpu') -> Any:
    """:func:`load_safely`, and a compact file (``.pab``) as a checkpoint; raises as they do."""
    if not str(path).endswith('.pab'):
        return load_safely(path, map_location)
    from ..compact.checkpoint import as_checkpoint  # what it needs is an extra

    return as_checkpoint(Path(path).expanduser())


def load_safely(path: str | os.PathLike, map_location: Any = 'cpu', check: bool = True) -> Any:
    """Load a file that torch wrote, without running anything it might contain, and only if every byte is sound.

    Args:
        path: of the file.
        map_location: where its tensors go.
        check: verify the checksums, which torch does not; otherwise tensors stay in the file until they are used.

    Raises:
        FileNotFoundError: there is no such file.
        UnusableCheckpoint: it is empty, truncated, damaged, no file of torch's, or holds more than plain data.
    """
    path = Path(path).expanduser()
    try:
        if check and zipfile.is_zipfile(path) and (bad := zipfile.ZipFile(path).testzip()):
            raise UnusableCheckpoint(f'{path} is damaged: the checksum of {bad} is wrong')
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise UnusableCheckpoint(f'{path} is damaged: {error}') from error
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'Detected pickle protocol')  # in files that are refused in a moment
            mmap = not check and zipfile.is_zipfile(path)
            return torch.load(str(path), map_location=map_location, weights_only=True, mmap=mmap)
    except FileNotFoundError:
        raise FileNotFoundError(f'there is no checkpoint {path}') from None
    except Exception as error:  # torch raises many kinds
        reason = 'is empty (0 bytes)'
        if wanted := re.search(r'GLOBAL ([A-Za-z_][\w.]*)', str(error)):
            why = 'only plain data is loaded, because anything else could run code'
            reason = f'is refused: it asks for {wanted.group(1)}, and {why}'
        elif path.stat().st_size:
            first_line = (str(error).splitlines() or [type(error).__name__])[0][:200]
            reason = f'is truncated or was not written by torch ({first_line})'
        raise UnusableCheckpoint(f'{path} {reason}') from error


def non_finite(value: Any, name: str = '') -> str | None:
    """The dotted name of the first tensor in nested dicts and lists that holds NaN or infinity; None when none does."""
    if isinstance(value, Tensor):
        return name if value.is_floating_point() and not torch.isfinite(value).all() else None
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    return next((bad for key, v in items if (bad := non_finite(v, f'{name}.{key}' if name else str(key)))), None)


def missing_for_resume(checkpoint: Any) -> list[str]:
    """What a run cannot go on without and the content of a file does not have."""
    content = checkpoint if isinstance(checkpoint, Mapping) else {}
    meta = content.get('meta')
    counted = isinstance(meta, Mapping) and {'iter', 'epoch'} <= set(meta)
    return [key for key in RUN_KEYS if key not in content or (key == 'meta' and not counted)]


def check_resumable(checkpoint: Any, path: str | os.PathLike, model: nn.Module | None = None) -> None:
    """Raise UnusableCheckpoint if the content of ``path`` holds no run, or a weight or a state that is not finite.

    Buffers of the model may hold anything.
    """
    if missing := missing_for_resume(checkpoint):
        raise UnusableCheckpoint(
            f'{path} cannot be resumed: it has no {", ".join(missing)}; resume from an epoch_*.pth or iter_*.pth, or '
            'start a new run from its weights with --cfg-options load_from=FILE'
        )
    buffers = {name for name, _ in model.named_buffers()} if model else ()
    weights = {name: value for name, value in checkpoint['state_dict'].items() if name not in buffers}
    if bad := non_finite({'state_dict': weights, 'optimizer': checkpoint['optimizer']}):
        raise UnusableCheckpoint(f'{path} cannot be resumed: {bad} is not finite')


def check_fits(model: nn.Module, state_dict: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Raise UnusableCheckpoint, naming ``path``, unless a state dict has a model's tensors, their shapes, and masks."""

    def shapes(state: Mapping[str, Any]) -> dict[str, Any]:
        """Name -> shape, or type of what is no tensor; without masks, which have a check of their own."""
        names = [name for name in state if not (name.endswith('_mask') and name.removesuffix('_mask') in state)]
        return {n: tuple(state[n].shape) if isinstance(state[n], Tensor) else type(state[n]).__name__ for n in names}

    here, there = shapes(model.state_dict()), shapes(state_dict)
    wrong = [
        f'{name} is {there.get(name, "missing")} there and {here.get(name, "missing")} here'
        for name in {**here, **there}
        # what batch norm counts came with torch 0.4.1
        if here.get(name) != there.get(name) and not (name.endswith('num_batches_tracked') and name not in there)
    ]
    if wrong:
        more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        raise UnusableCheckpoint(
            f'{path} is a checkpoint of another model: {"; ".join(wrong[:3])}{more}. Give the config it had'
        )
    try:
        check_state_masks(model, state_dict)
    except ValueError as error:
        raise UnusableCheckpoint(f'{path} does not fit the masks of this run: {error}') from error


def bare(model: nn.Module) -> nn.Module:
    """A model without the wrapper that makes it distributed."""
    return model.module if is_model_wrapper(model) else model


def wrappers_of(optim_wrapper: Any) -> list:
    """The wrappers of single optimizers, of which a run has one or several."""
    return list(optim_wrapper.values()) if isinstance(optim_wrapper, OptimWrapperDict) else [optim_wrapper]


def checkpoint_folders(runner: Runner) -> list[str]:
    """The work dir of a run, and behind it the folders that its CheckpointHooks write into instead."""
    out_dirs = [hook.out_dir for hook in runner.hooks if isinstance(hook, CheckpointHook) and hook.out_dir]
    name = os.path.basename(runner.work_dir.rstrip(os.sep))
    return [runner.work_dir, *(os.path.join(folder, name) for folder in out_dirs)]
