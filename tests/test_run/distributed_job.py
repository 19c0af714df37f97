"""What each of several processes does in test_distributed.py."""

import copy
import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # when this file is the script

from pab.hooks.method.pruning import hash_masks
from pab.pruners import get_masks
from pab.registry import HOOKS, RUNNERS
from tests import small_run
from tests.small_run import runner_hook, small_config

VALIDATION = 77  # images: no number of processes but 7, 11 and 77 divides it


@HOOKS.register_module()
class EvalLayersHook(Hook):
    """Train with batch norm and dropout in evaluation mode, so that a step depends on its images only."""

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        for module in runner.network.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.Dropout)):
                module.eval()


def config(folder: Path, name: str, **options: Any) -> Config:
    """A small run of its own name, with a validation set that does not split evenly."""
    cfg = small_config(folder / name, val_dataloader__dataset__num=VALIDATION, **options)
    cfg.experiment_name = f'{name}-{folder.name}'
    return cfg


def plain_config(folder: Path, name: str, batch_size: int, psg: bool = False) -> Config:
    """A run in which the gradient of a batch is the mean of those of its parts, unless PSG scales it."""
    cfg = config(folder, name, train_dataloader__batch_size=batch_size, custom_hooks=[dict(type='EvalLayersHook')])
    cfg.data_preprocessor.crop_padding = 0
    if not psg:
        cfg.model.converter = None
    return cfg


def train(cfg: Config) -> dict:
    """Train, and return what is to be compared."""
    runner = RUNNERS.build(cfg)
    runner.train()
    return summary(runner)


def summary(runner: Any) -> dict:
    """The final state of a process: tensors, and hashes of them."""
    network = runner.network
    flips = runner.message_hub.log_scalars['flips/step'].data[0].tolist()
    averages = [state['moving_average'] for bop in runner.sign_optimizers for state in bop.state.values()]
    parameters = {name: param.detach().clone() for name, param in network.named_parameters()}
    return {
        'parameters': parameters,
        'hashes': {
            'masks': hash_masks(get_masks(network)),
            'parameters': _hash(parameters.values()),
            'bop': _hash(averages),
            'optimizers': hashlib.sha256(repr(runner.optim_wrapper.state_dict()).encode()).hexdigest(),
        },
        'recorded': runner_hook(runner, 'PruneHook').record(runner)['masks_sha256'],
        'statistics': {name: value.clone() for name, value in network.named_buffers() if 'running' in name},
        'flips': flips,
        'metrics': {
            name: runner.message_hub.log_scalars[f'val/{name}'].data[0].tolist()
            for name in ('accuracy/top1', 'cross_entropy')
        },
        'batches': len(runner.train_dataloader),
    }


def _hash(tensors) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


RUNS = {
    'whole': config,
    'compressed': lambda folder, name: config(folder, name, custom_hooks=[dict(type='GradientCompressionHook')]),
    'split': lambda folder, name: plain_config(folder, name, batch_size=4),
    'split_psg': lambda folder, name: plain_config(folder, name, batch_size=4, psg=True),
}


def train_each(launched: Config, folder: Path) -> None:
    """Train :data:`RUNS` in turn in two processes; ``rank<N>.pth`` has the summary of each, and the files written.

    Args:
        launched: what a config needs so that the processes find each other.
        folder: for everything.
    """
    written: list[str] = []

    def watch(event: str, args: tuple) -> None:
        if event == 'open' and isinstance(args[1], str) and set(args[1]) & set('wax+'):
            written.append(str(args[0]))

    sys.addaudithook(watch)
    result: dict[str, Any] = {}
    for name, make in RUNS.items():
        cfg = make(folder, name)
        cfg.merge_from_dict(launched)
        result[name] = train(cfg)
    result['written'] = [path for path in written if Path(path).is_relative_to(folder)]
    torch.save(result, folder / f'rank{torch.distributed.get_rank()}.pth')


def prune_with_too_many_images(cfg: Config) -> str:
    """Train; return the text of the ValueError that this raises."""
    try:
        RUNNERS.build(cfg).train()
    except ValueError as error:
        torch.distributed.barrier()  # nobody leaves while another may still be told of the error
        return str(error)
    return 'nothing was refused'


def act_in_part(cfg: Config, accident: bool) -> None:
    """Train, until one process fails in the third epoch if there is to be an accident."""

    def prepare(runner: Any) -> None:
        if accident and runner.rank == 1:
            runner.register_hook(FailHook())

    small_run.train(cfg, prepare)


DIFFERENT = {  # what the second process has otherwise -> what is said of it
    'randomness.seed': (1, 'randomness.seed is 0 on process 0, 1 on process 1'),
    'optim_wrapper.optimizers.sgd.lr': (0.2, 'sgd.lr is 0.1 on process 0, 0.2 on process 1'),
    'optim_wrapper.optimizers.signs.threshold': (0.5, 'signs.threshold is .* on process 0, 0.5 on process 1'),
    'train_dataloader.batch_size': (4, 'train_dataloader.batch_size is 8 on process 0, 4 on process 1'),
    'train_cfg.val_begin': (2, 'train_cfg.val_begin is missing on process 0, 2 on process 1'),
    '_images': (75, 'train_dataloader: images is 76 on process 0, 75 on process 1. Start all with the same'),
    '_classes': (list('abcx'), r"classes is \('a', .* on process 0, .*'x'\) on process 1"),
}


def differ_each(cfg: Config, keys: list[str]) -> dict[str, str]:
    """Train once for each key, which has another value in the second process; key -> what the ValueError says."""
    told, as_it_is = {}, small_run.Stripes.__init__
    for key in keys:
        here, value = copy.deepcopy(cfg), DIFFERENT.get(key, (1,))[0]

        def other(self, num=75 if key == '_images' else 76, value=value if key == '_classes' else tuple('abcd')):
            as_it_is(self, num)
            self.metainfo['classes'] = tuple(value)

        here.experiment_name = f'{key}-{time.time_ns()}'
        if torch.distributed.get_rank() == 1:
            here.merge_from_dict({key: value})
            small_run.Stripes.__init__ = other
        try:
            RUNNERS.build(here).train()
            told[key] = 'nothing was refused'
        except ValueError as error:
            told[key] = str(error)
    return told


class FailHook(Hook):
    """Raise an error before the 13th step."""

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == 12:
            raise RuntimeError('an accident of one process')
