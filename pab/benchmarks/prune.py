"""SynFlow over 100 rounds: seconds, and on the large network the peak of memory, in a process of its own."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from ..models import initialize_
from ..registry import MODELS, PRUNERS
from .timing import Row, Settings, alternate, median_and_spread

ROUNDS = 100


def measure(settings: Settings) -> list[Row]:
    """ResNet-18 on CIFAR; with ``--full`` ResNet-50 at 224 x 224, once."""
    if settings.tiny:
        return [_seconds('ResNet-8 tiny', dict(type='CIFARResNet', depth=8, width=4), (3, 8, 8), 5, settings)]
    rows = [_seconds('ResNet-18 CIFAR', dict(type='CIFARResNet', depth=18), (3, 32, 32), ROUNDS, settings)]
    return rows + (_large(settings) if settings.full else [])


def _pruning(network: dict, shape: tuple[int, int, int], rounds: int, device: str) -> Callable[[], None]:
    model = MODELS.build(network)
    initialize_(model, 'kaiming_normal', 0)
    model.to(device)
    pruner = PRUNERS.build(dict(type='SynFlow', density=0.3, rounds=rounds))
    return lambda: pruner.prune(model, input_shape=shape) and None


def _seconds(case: str, network: dict, shape: tuple[int, int, int], rounds: int, settings: Settings) -> Row:
    few = Settings(settings.device, min(settings.repeats, 3), min(settings.warmup, 1))
    seconds = alternate({'SynFlow': _pruning(network, shape, rounds, settings.device)}, few)['SynFlow']
    median, spread = median_and_spread(seconds)
    return Row('prune', f'{case}, {rounds} rounds', 'SynFlow', median, spread, 's')


def _large(settings: Settings) -> list[Row]:
    command = [sys.executable, '-m', 'pab.benchmarks.prune', settings.device]
    env = {**os.environ, 'OMP_NUM_THREADS': str(torch.get_num_threads())}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])  # warnings of the pruner stand before it
    case = f'ResNet-50 224, {ROUNDS} rounds'
    return [
        Row('prune', case, 'SynFlow', found['seconds'], 0.0, 's'),
        Row('peak memory', case, 'SynFlow, whole process', found['gib'], 0.0, 'GiB'),
    ]


def _run_large(device: str) -> None:
    resnet50 = dict(type='TorchvisionModel', name='resnet50', num_classes=1000)
    prune = _pruning(resnet50, (3, 224, 224), ROUNDS, device)
    start = time.perf_counter()
    prune()
    seconds = time.perf_counter() - start
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(dict(seconds=seconds, gib=gib)))


if __name__ == '__main__':
    _run_large(sys.argv[1])
