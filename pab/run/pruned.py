"""Pruning as a stage of its own: a freshly initialised network, masked, in a file that training can start from."""

import io
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ..hooks import PruneHook
from ..hooks.parts import network_of
from ..hooks.prune import RECORD, hash_file
from ..pruners import register_masks_
from .storage import write_atomically


def prune_to_file(runner: Runner, path: Path, overwrite: bool = False) -> None:
    """Initialise the runner's model, do every shot of its PruneHook at once and write weights, masks and the record.

    Args:
        runner: freshly built; nothing of it has run.
        path: of the checkpoint; its folder is made.
        overwrite: whether a file that is there may be replaced.

    Raises:
        FileExistsError: the file is there and ``overwrite`` is False.
        ValueError: the config has no PruneHook, or one whose score needs a training history.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f'{path} exists; choose another file, or pass --force to write over it')
    hook = next((hook for hook in runner.hooks if isinstance(hook, PruneHook)), None)
    if hook is None:
        raise ValueError('prune: the config has no PruneHook; set default_hooks.prune')
    if 'flips' in hook.pruner.needs:
        raise ValueError(
            f'prune: {type(hook.pruner).__name__} scores by the flips of a training; it cannot prune before one'
        )
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    model.init_weights()
    register_masks_(network_of(model), hook.pruner.settings.prunable)
    while hook.shots_done < hook.shots:
        hook.prune(runner)
    if is_main_process():
        content = io.BytesIO()
        torch.save(
            {'meta': {'seed': runner.seed}, 'state_dict': model.state_dict(), RECORD: hook.record(runner)}, content
        )
        write_atomically(content.getvalue(), path)
        runner.logger.info(f'The pruned network is in {path}, sha256 {hash_file(path)}')
