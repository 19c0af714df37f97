"""The processes of one run: brought together before its runner is built, and taken apart after it."""

import os
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_gather_object, barrier
from torch import distributed

from .. import __version__

# What torchrun tells every process; without these there is no one to join.
RENDEZVOUS = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')

# Globs over settings that may differ between machines: where things are there, and how data are read.
MAY_DIFFER = (
    *('_*', 'work_dir', 'load_from', 'experiment_name', '*.data_root'),
    *('*.num_workers', '*.persistent_workers', '*.prefetch_factor'),
)

# Launchers that tell a process its number, that on its machine, and how many there are, by variables of their own.
LAUNCHERS = {
    'slurm': ('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE'),
}


def rank_of_process() -> int:
    """The number of this process among the ones that a launcher started; 0 without a launcher."""
    names = ['RANK', *(names[0] for names in LAUNCHERS.values())]
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)


@contextmanager
def process_group(cfg: Config) -> Iterator[None]:
    """Join the other processes of a run, if its launcher started any, and leave them at the end, after errors too.

    Processes of torchrun meet here: by nccl on GPUs; by gloo where there is none, and the config then gets a
    ``model_wrapper_cfg`` without devices. Those of Slurm and MPI do so on CPUs, and meet in mmengine's runner on GPUs.
    For all of them,
    ``env_cfg.dist_cfg`` has ``backend``, and ``timeout``: the seconds after which a process no longer waits for others.

    Raises:
        ValueError: torchrun started processes and ``launcher`` is 'none', or ``launcher`` is 'pytorch' and it did not;
            there are more processes than GPUs; ``sync_bn`` needs a GPU and there is none; Slurm or MPI did not start
            this process; Slurm's scontrol is missing.
    """
    launcher, device = cfg.get('launcher', 'none'), get_device()
    _check(cfg, launcher, device)
    if launcher != 'none' and device == 'cpu':
        cfg.model_wrapper_cfg = {'device_ids': None, **wrapper_settings(cfg)}
    if launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:  # of a failing scontrol mmengine takes the message
        os.environ['MASTER_ADDR'] = _first_machine()
    if launcher in LAUNCHERS and device == 'cpu':
        _take_up(launcher)
    if (launcher == 'pytorch' and device == 'cuda') or (launcher != 'none' and device == 'cpu'):
        _join((cfg.get('env_cfg') or {}).get('dist_cfg') or {}, device)
    done = False
    try:
        with warnings.catch_warnings():
            # channels_last gradients of 1x1 convolutions: both strides are the same order in memory
            warnings.filterwarnings('ignore', 'Grad strides do not match bucket view strides')
            # its successor is unknown to older versions of torch
            warnings.filterwarnings('ignore', '`broadcast_buffers` is deprecated')
            yield
        done = True
    finally:
        # After an error nccl would wait for what the others still have to send; the process ends anyway.
        if distributed.is_initialized() and (done or distributed.get_backend() == 'gloo'):
            time.sleep(0.1)  # torch 2.6 waits for ever where a thread of gloo has yet to free the last tensors
            distributed.destroy_process_group()
            time.sleep(1)  # threads of the group that outlive the interpreter abort it


def _check(cfg: Config, launcher: str, device: str) -> None:
    started, here = (int(os.environ.get(name, 1)) for name in ('WORLD_SIZE', 'LOCAL_WORLD_SIZE'))
    missing, told = [name for name in RENDEZVOUS if name not in os.environ], ''
    if launcher == 'none' and 'TORCHELASTIC_RUN_ID' in os.environ and started > 1:
        told = (
            f'launcher: torchrun started {started} processes, each of which would train alone; add --launcher pytorch, '
            'as tools/dist_train.sh does'
        )
    elif launcher == 'pytorch' and missing:
        told = (
            f'launcher: pytorch needs the environment that torchrun sets, and there is no {", ".join(missing)}; start '
            'with tools/dist_train.sh CONFIG GPUS, or torchrun -m pab train CONFIG --launcher pytorch'
        )
    elif launcher == 'pytorch' and device == 'cuda' and here > (gpus := torch.cuda.device_count()):
        told = (
            f'launcher: each process needs a GPU of its own, got {here} processes and {gpus} GPUs on this machine; '
            "start fewer, or set CUDA_VISIBLE_DEVICES='' to train on the CPU"
        )
    elif launcher in LAUNCHERS and LAUNCHERS[launcher][0] not in os.environ:
        told = f'launcher: {launcher} did not start this process, there is no {LAUNCHERS[launcher][0]}; start with ' + (
            'srun, as tools/slurm_train.sh does' if launcher == 'slurm' else 'mpirun'
        )
    elif launcher != 'none' and device == 'cpu' and cfg.get('sync_bn'):
        told = (
            f"sync_bn: torch's SyncBatchNorm runs on GPUs only, got {cfg.sync_bn!r} on a machine without one; leave it "
            'out, and every process normalises by its own part of the batch'
        )
    if told:
        raise ValueError(told)


def _take_up(launcher: str) -> None:
    """Tell torch, by its own variables, what Slurm or MPI told this process; the first machine of a job is the host."""
    for name, theirs in zip(('RANK', 'LOCAL_RANK', 'WORLD_SIZE'), LAUNCHERS[launcher], strict=True):
        os.environ[name] = os.environ[theirs]
    os.environ.setdefault('MASTER_PORT', '29500')
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')


def _first_machine() -> str:
    """The name of the first machine of a job of Slurm; ValueError where nobody here knows it."""
    machines = os.environ['SLURM_NODELIST']
    names = ['scontrol', 'show', 'hostnames', machines]
    try:
        return subprocess.run(names, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise ValueError(
            f'launcher: slurm needs scontrol, which tells the first machine of {machines}, and it cannot be run here '
            f'({error}); add it to PATH, or set MASTER_ADDR to the name of that machine'
        ) from error


def _join(settings: dict, device: str) -> None:
    backend = settings.get('backend', 'nccl')
    if device == 'cuda':
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    elif backend == 'nccl':
        backend = 'gloo'
    timeout = timedelta(seconds=settings['timeout']) if 'timeout' in settings else None
    store, rank, size = next(distributed.rendezvous('env://'))
    # The store outlives a restart, and would give the address of a process that is gone.
    store = distributed.PrefixStore(f'attempt_{os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}', store)
    distributed.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=size)


def wrapper_settings(cfg: dict) -> dict:
    """The settings of the wrapper that makes a model distributed, with mmengine's defaults."""
    return {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
        **(cfg.get('model_wrapper_cfg') or {}),
    }


def check_settings_agree(cfg: Mapping[str, Any]) -> None:
    """:func:`check_agreement` of a config, but for ``MAY_DIFFER``, and of the versions of pab and torch."""
    facts = {name: value for name, value in leaves(cfg) if not any(fnmatchcase(name, glob) for glob in MAY_DIFFER)}
    check_agreement({**facts, 'the version of pab': __version__, 'the version of torch': torch.__version__})


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Compare what the processes of a run have, by one gathering, in which every process must take part.

    Raises:
        ValueError: on every process, unless the ``repr`` of each fact is the same on all; with up to three names, the
            numbers of the processes, and their values.
    """
    every: list[dict[str, str]] = all_gather_object({name: repr(value) for name, value in facts.items()})
    differing = []
    for name in dict.fromkeys(name for told in every for name in told):
        ranks: dict[str, list[str]] = {}
        for rank, told in enumerate(every):
            ranks.setdefault(told.get(name, 'missing'), []).append(str(rank))
        if len(ranks) > 1:
            columns = enumerate(zip(*ranks, strict=False))
            same = next((place for place, letters in columns if len(set(letters)) > 1), 0)
            start = same - 10 if same > 40 else 0  # of a long list, what differs
            shown = [
                f'{"..." if start else ""}{value[start : start + 60]}{"..." if len(value) > start + 60 else ""} '
                f'on process {", ".join(numbers[:8])}{" and others" if len(numbers) > 8 else ""}'
                for value, numbers in ranks.items()
            ]
            differing.append(f'{name} is {", ".join(shown[:3])}')
    if differing:
        barrier()  # nobody leaves while another may still read
        more = f'; and {len(differing) - 3} more' if len(differing) > 3 else ''
        raise ValueError(
            f'the processes of this run differ: {"; ".join(differing[:3])}{more}. Start all with the same command, '
            'code and data'
        )


def leaves(settings: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of nested settings, also in lists of dicts."""
    if isinstance(settings, Mapping) and settings:
        items = [(f'{name}.{key}' if name else str(key), value) for key, value in settings.items()]
    elif isinstance(settings, list | tuple) and any(isinstance(item, Mapping) for item in settings):
        items = [(f'{name}[{index}]', value) for index, value in enumerate(settings)]
    else:
        yield name, settings
        return
    for key, value in items:
        yield from leaves(value, key)
