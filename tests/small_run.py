"""A whole run in two seconds: a tiny network on made-up images, with the hooks of the recipes, in its own process."""

import copy
import functools
import itertools
import multiprocessing.connection
import os
import signal
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmengine.config.config
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from torch import Tensor, nn

from pab.datasets.in_memory import InMemoryDataset
from pab.hooks.method.pruning import PruningHook
from pab.registry import DATASETS, MODELS, RUNNERS
from pab.run.distributed import process_group

CONFIGS = Path(__file__).parents[1] / 'configs'
QUICKSTART = CONFIGS / 'pab' / 'quickstart.py'
# mmengine names a run by the second it starts in, and runs of one name share their log
RUNS = itertools.count()
PRELOAD = ['tests.small_run', 'pytest', 'matplotlib.backends.backend_agg', 'mmengine.visualization']
PRELOAD += ['torch.utils.cpp_extension', 'torch.distributed.algorithms.ddp_comm_hooks', 'pab.contrib']
PRELOAD += [f'pab.{part}' for part in ('datasets', 'evaluation', 'hooks', 'models', 'optim', 'pruners', 'psg', 'run')]
EPOCHS, STEPS = 3, 10  # of 8 images, the last of an epoch of 4


@DATASETS.register_module()
class Stripes(InMemoryDataset):
    """76 images of 1 x 6 x 6: brighter where the label, one of four, says, under noise from a fixed seed."""

    def __init__(self, num: int = 76) -> None:
        generator = torch.Generator().manual_seed(5)
        labels = torch.arange(num) % 4
        images = torch.randint(0, 90, (num, 1, 6, 6), generator=generator)
        images[torch.arange(num), 0, labels] += 120
        super().__init__(images.to(torch.uint8), labels, classes=['a', 'b', 'c', 'd'])


@MODELS.register_module()
class TinyNet(nn.Module):
    """Two convolutions, batch norm and dropout, one linear layer: (N, 1, 6, 6) -> (N, 4)."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(0.1)  # draws random numbers in every step
        self.linear = nn.Linear(width, 4)

    def forward(self, images: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(images)))
        return self.linear(self.dropout(torch.relu(self.conv2(out)).mean((2, 3))))


def small_config(work_dir: str | os.PathLike, *, digits: bool = False, report: bool = False, **options: Any) -> Config:
    """The quickstart, made small: :class:`TinyNet` on :class:`Stripes`, or a ResNet-8 of width 2 on ``digits``.

    Options are merged last, as ``--cfg-options`` would be (``__`` for a dot): ``train_cfg__max_epochs=1`` or
    ``train_cfg=dict(max_epochs=1)``. The report is drawn, for a second, only if asked for.
    """
    cfg = copy.deepcopy(_quickstart())
    (_few_digits if digits else _stripes)(cfg)
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'
    if not report:
        cfg.default_hooks.report = None
    return cfg


@functools.cache
def _quickstart() -> Config:
    return Config.fromfile(str(QUICKSTART))


def _few_digits(cfg: Config) -> None:
    cfg.merge_from_dict(
        dict(
            experiment_name=f'digits_{next(RUNS)}',
            model=dict(network=dict(width=2)),
            train_dataloader=dict(batch_size=32, dataset=dict(num_samples=128)),
            val_dataloader=dict(dataset=dict(num_samples=32)),
            test_dataloader=dict(dataset=dict(num_samples=32)),
            train_cfg=dict(max_epochs=2),
            param_scheduler=dict(sgd=[dict(type='MultiStepLR', milestones=[1], gamma=0.1)]),
            default_hooks=dict(
                prune=dict(pruner=dict(rounds=3)),
                ar_decay=dict(interval=1),
                logger=dict(interval=1),
                checkpoint=dict(save_best=None),
            ),
        )
    )


def _stripes(cfg: Config) -> None:
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    cfg.merge_from_dict(
        dict(
            experiment_name=f'stripes_{next(RUNS)}',
            **{name: dict(batch_size=8, dataset=dict(_delete_=True, type='Stripes')) for name in loaders},
            model=dict(network=dict(_delete_=True, type='TinyNet'), input_shape=(1, 6, 6)),
            train_cfg=dict(max_epochs=EPOCHS),
            optim_wrapper=dict(optimizers=dict(signs=dict(adaptivity_rate=0.2))),  # some signs flip at every step
            default_hooks=dict(
                prune=dict(pruner=dict(rounds=3, density=0.5), epoch=1, shots=2),
                ar_decay=dict(interval=1, gamma=0.8),
                logger=dict(interval=4),
            ),
            param_scheduler=dict(
                sgd=[
                    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=7),
                    dict(type='MultiStepLR', milestones=[1, 2], gamma=0.1),
                ]
            ),
            visualizer=dict(vis_backends=[]),
        )
    )


def run_in_child(act: Callable[..., Any], *args: Any) -> tuple[int, Any]:
    """Call a function of a module in a process of its own; its status (-9 for SIGKILL), and what it returned or raised.

    The process is forked from a server that has everything imported and has run nothing.
    """
    return _finish(start_child(act, *args))


def run_ranks(world_size: int, act: Callable[..., Any], *args: Any) -> list[tuple[int, Any]]:
    """As :func:`run_in_child`, in several processes at once that find each other; ``args`` begin with a config."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    children = [start_child(_as_rank, rank, world_size, port, act, *args) for rank in range(world_size)]
    return [_finish(child) for child in children]


def _as_rank(rank: int, world_size: int, port: int, act: Callable[..., Any], cfg: Config, *args: Any) -> Any:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port)
    )
    cfg.launcher = 'pytorch'
    with process_group(cfg):
        return act(cfg, *args)


def start_child(act: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """The process of :func:`run_in_child`, which has begun, and the end of a pipe that its result will come from."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PRELOAD)
    paths = os.environ.get('PYTHONPATH', '')
    os.environ['PYTHONPATH'] = os.pathsep.join(
        [str(Path(__file__).parents[1]), paths]
    )  # for the server to find this file
    try:
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_call, args=(sender, act, args))
        child.start()
    finally:
        os.environ['PYTHONPATH'] = paths
    sender.close()
    return child, receiver


def _finish(started: tuple[Any, Any]) -> tuple[int, Any]:
    child, receiver = started
    # A child that was killed sends nothing, but its loader's workers keep the pipe open for some seconds.
    multiprocessing.connection.wait([receiver, child.sentinel])
    try:
        result = receiver.recv() if receiver.poll() else None
    except EOFError:  # it was killed, or left by SystemExit
        result = None
    child.join()
    return child.exitcode, result


def _call(sender: Any, act: Callable[..., Any], args: tuple) -> None:
    torch.set_num_threads(1)
    mmengine.config.config.FormatCode = lambda text, **_: (text, True)  # to lay it out takes a third of such a run
    try:
        result = act(*args)
    except Exception as error:
        traceback.print_exc()
        result = error
    sender.send(result)
    sender.close()


class KillHook(Hook):
    """End the process by a signal at a step, which is counted from 1: before, in or after it, or while it is saved."""

    STAGES = ('before', 'in', 'after', 'save')
    priority = 'VERY_HIGH'

    def __init__(self, step: int, stage: str, number: int = signal.SIGKILL) -> None:
        self.step, self.stage, self.number = step, stage, number

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter + 1 == self.step:
            if self.stage == 'before':
                self._kill()
            elif self.stage == 'in':
                bop = runner.optim_wrapper['signs'].optimizer
                bop.register_step_post_hook(lambda *_: self._kill())  # one optimizer has stepped, the other has not
            elif self.stage == 'save':
                os.fsync = lambda _: self._kill()  # everything is in the temporary file, nothing is renamed

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 == self.step and self.stage == 'after':
            self._kill()

    def _kill(self) -> None:
        os.kill(os.getpid(), self.number)


class StepHook(Hook):
    """Call functions of (network, optimizer) before and behind every step of an optimizer."""

    priority = 'HIGHEST'  # before what other hooks do then

    def __init__(self, before: Callable, behind: Callable | None = None) -> None:
        self.before, self.behind = before, behind

    def before_train(self, runner: Any) -> None:
        for wrapper in runner.optim_wrapper.values():
            wrapper.optimizer.register_step_pre_hook(lambda o, *_: self.before(runner.network, o))
            if self.behind:
                wrapper.optimizer.register_step_post_hook(lambda o, *_: self.behind(runner.network, o))


def train_and_kill(cfg: Config, step: int, stage: str, number: int = signal.SIGKILL) -> dict:
    """As :func:`train`, with a :class:`KillHook`."""
    return train(cfg, lambda runner: runner.register_hook(KillHook(step, stage, number)))


def train(cfg: Config, prepare: Callable[[Any], None] | None = None) -> dict:
    """Train a config here and return the state it ends in; ``prepare`` gets the runner first."""
    runner = RUNNERS.build(copy.deepcopy(cfg))
    if prepare:
        prepare(runner)
    runner.train()
    return final_state(runner)


def final_state(runner: Any) -> dict:
    """Everything that must be the same after a resume, as comparable data."""
    hub = runner.message_hub
    timings = ('train/time', 'train/data_time', 'val/time', 'val/data_time')
    return {
        'weights': {name: _bytes(value) for name, value in runner.model.state_dict().items()},
        'optimizers': _comparable(runner.optim_wrapper.state_dict()),
        'schedulers': _comparable(
            {name: [s.state_dict() for s in group] for name, group in runner.param_schedulers.items()}
        ),
        'scalars': {
            name: [column.tolist() for column in buffer.data]
            for name, buffer in hub.log_scalars.items()
            if name not in timings
        },
        'best': hub.get_info('best_score'),
        'progress': (runner.epoch, runner.iter),
        'pruning': next(hook for hook in runner.hooks if isinstance(hook, PruningHook)).record(runner),
    }


def runner_hook(runner: Any, name: str) -> Any:
    """The hook of a runner by the name of its class."""
    return next(hook for hook in runner.hooks if type(hook).__name__ == name)


def _comparable(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _bytes(value)
    if isinstance(value, dict):
        return {key: _comparable(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_comparable(v) for v in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else repr(value)


def _bytes(value: Tensor) -> tuple:
    return (
        str(value.dtype),
        tuple(value.shape),
        value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes(),
    )
