"""Pruning as a stage of its own: a masked network in a file that training can start from."""

import io
from pathlib import Path

import torch
from mmengine.dist import is_main_process

from ...files import check_free, write_atomically
from ...pruners import register_masks_
from ...run import PabRunner
from ...run.checkpoint import UnusableCheckpoint
from ...state_dicts import PRUNING_RECORD
from ..guards.data_check import check_input_shape, check_items, check_outputs
from .pruning import PruningHook, hash_file


def prune_to_file(runner: PabRunner, path: Path, overwrite: bool = False) -> None:
    """Do every shot of the runner's PruneHook at once and write weights, masks and the record.

    Args:
        runner: freshly built. Its network is the one that ``load_from`` names, without masks so far, or a new one.
        path: of the checkpoint; its folder is made.
        overwrite: whether a file that is there may be replaced; otherwise it is a FileExistsError.

    Raises:
        ValueError: the config has no PruneHook, or one that needs a training history; it resumes; or
            ``load_from`` does not fit.
    """
    check_free(path, overwrite)
    hook = next((hook for hook in runner.hooks if isinstance(hook, PruningHook)), None)
    if hook is None:
        raise ValueError('prune: the config has no PruneHook; set default_hooks.prune')
    if reason := hook.needs_training():
        raise ValueError(f'prune: {reason}; it cannot prune before one')
    if runner.resumes:
        raise ValueError('prune: a run is not resumed here, got resume=True; name the file of the network by load_from')
    model = runner.bare_model
    check_items(model, runner.train_dataloader, 'train_dataloader')
    check_input_shape(model, runner.train_dataloader, 'train_dataloader')
    check_outputs(model, runner.train_dataloader, 'train_dataloader')
    model.init_weights()
    if runner.start_file:
        try:
            runner.load_checkpoint(runner.start_file)
        except UnusableCheckpoint as error:
            raise ValueError(f'prune: load_from must be this network, without masks so far; {error}') from error
    register_masks_(runner.network, hook.pruner.settings.prunable)
    while hook.shots_done < hook.shots:
        hook.prune(runner)
    if is_main_process():
        content = io.BytesIO()
        meta = {'seed': runner.seed, 'load_from': runner.start_file}
        torch.save({'meta': meta, 'state_dict': model.state_dict(), PRUNING_RECORD: hook.record(runner)}, content)
        write_atomically(content.getvalue(), path)
        runner.logger.info(f'The pruned network is in {path}, sha256 {hash_file(path)}')
