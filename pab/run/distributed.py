"""The processes of one run: brought together before its runner is built, and taken apart after it."""

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.device import get_device
from torch import distributed

# What torchrun tells every process; without these there is no one to join.
RENDEZVOUS = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')


@contextmanager
def process_group(cfg: Config) -> Iterator[None]:
    """Join the other processes of a run, if its launcher started any, and leave them at the end, after errors too.

    Processes of torchrun meet here: by nccl on GPUs; by gloo where there is none, and the config then gets a
    ``model_wrapper_cfg`` without devices. Processes of other launchers meet in mmengine's runner. For all of them,
    ``env_cfg.dist_cfg`` has ``backend``, and ``timeout``: the seconds after which a process no longer waits for others.

    Args:
        cfg: with ``launcher``.

    Raises:
        ValueError: torchrun started processes and ``launcher`` is 'none', or ``launcher`` is 'pytorch' and it did not;
            there are more processes than GPUs; the launcher or ``sync_bn`` needs a GPU and there is none.
    """
    launcher = cfg.get('launcher', 'none')
    _check_launched(launcher)
    device = get_device()
    if launcher != 'none' and device == 'cpu':
        _prepare_for_cpu(cfg, launcher)
    if launcher == 'pytorch' and device in ('cpu', 'cuda'):
        _join(cfg, device)
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
            distributed.destroy_process_group()
            time.sleep(1)  # threads of the group that outlive the interpreter abort it


def _check_launched(launcher: str) -> None:
    started = int(os.environ.get('WORLD_SIZE', 1))
    if launcher == 'none' and 'TORCHELASTIC_RUN_ID' in os.environ and started > 1:
        raise ValueError(
            f'launcher: torchrun started {started} processes, each of which would train alone; add --launcher pytorch, '
            'as tools/dist_train.sh does'
        )
    missing = [name for name in RENDEZVOUS if name not in os.environ]
    if launcher == 'pytorch' and missing:
        raise ValueError(
            f'launcher: pytorch needs the environment that torchrun sets, and there is no {", ".join(missing)}; start '
            'with tools/dist_train.sh CONFIG GPUS'
        )


def _join(cfg: Config, device: str) -> None:
    settings = (cfg.get('env_cfg') or {}).get('dist_cfg') or {}
    backend = settings.get('backend', 'nccl')
    if device == 'cpu' and backend == 'nccl':
        backend = 'gloo'
    if device == 'cuda':
        here, gpus = int(os.environ.get('LOCAL_WORLD_SIZE', 1)), torch.cuda.device_count()
        if here > gpus:
            raise ValueError(
                f'launcher: each process needs a GPU of its own, got {here} processes and {gpus} GPUs on this machine; '
                "start fewer, or set CUDA_VISIBLE_DEVICES='' to train on the CPU"
            )
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    timeout = timedelta(seconds=settings['timeout']) if 'timeout' in settings else None
    store, rank, size = next(distributed.rendezvous('env://'))
    # The store outlives a restart, and would give the address of a process that is gone.
    store = distributed.PrefixStore(f'attempt_{os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}', store)
    distributed.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=size)


def _prepare_for_cpu(cfg: Config, launcher: str) -> None:
    if launcher != 'pytorch':
        raise ValueError(f'launcher: {launcher!r} needs GPUs, and there is none here; use tools/dist_train.sh')
    if cfg.get('sync_bn'):
        raise ValueError(
            f"sync_bn: torch's SyncBatchNorm runs on GPUs only, got {cfg.sync_bn!r} on a machine without one; leave it "
            'out, and every process normalises by its own part of the batch'
        )
    cfg.model_wrapper_cfg = {
        'type': 'MMDistributedDataParallel',
        'device_ids': None,
        'broadcast_buffers': False,  # as mmengine's own default
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
        **(cfg.get('model_wrapper_cfg') or {}),
    }
