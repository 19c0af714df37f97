"""From a command line to a runner: what the scripts in ``tools/`` share."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.device import get_device

from ..registry import RUNNERS
from .allocator import keep_freed_memory
from .config import check_config
from .distributed import process_group


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config and what changes it."""
    parser.add_argument('config', help='a Python config file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='replace values of the config, such as train_cfg.max_epochs=8',
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every tool that builds a runner."""
    add_config_arguments(parser)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/<name of the config>)')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    # torchrun's predecessor passes it; torchrun itself sets the environment variable
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_seed_argument(parser: argparse.ArgumentParser) -> None:
    """Add the seed."""
    parser.add_argument(
        '--seed', type=int, help='seed of weights, pruning and data order (default: that of the config)'
    )


def load_config(args: argparse.Namespace) -> Config:
    """Read the config that a command line names, and let the command line replace parts of it.

    Raises:
        SystemExit: there is no such file, it cannot be read, or nothing would read a key of it.
    """
    path = Path(args.config)
    if not path.is_file():
        sys.exit(f'error: there is no config {path}; those that come with pab are in configs/pab/')
    sys.path.append(str(path.parent.resolve()))  # modules of custom_imports may lie beside the config
    try:
        cfg = Config.fromfile(str(path))
        if args.cfg_options:
            cfg.merge_from_dict(args.cfg_options)
        check_config(cfg)
    except (ValueError, KeyError, OSError, SyntaxError, ImportError) as error:
        sys.exit(f'error: {path}: {_message(error)}')
    if getattr(args, 'seed', None) is not None:
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=args.seed)
    if hasattr(args, 'launcher'):
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
        cfg.launcher = args.launcher
        cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / path.stem)
    return cfg


def run(cfg: Config, act: Callable[[Any], Any]) -> None:
    """Build the runner of a config and let it act; an error in what the user gave is one line, not a traceback.

    On a CPU the process keeps the memory that it frees from here on (:func:`keep_freed_memory`).
    ``PAB_TRACEBACK=1`` in the environment shows where such an error came from.

    Args:
        cfg: with the launcher and work dir of the command line.
        act: what the runner is to do.
    """
    if get_device() == 'cpu':
        keep_freed_memory()
    try:
        with process_group(cfg):
            act(RUNNERS.build(cfg))
    except (ValueError, TypeError, KeyError, OSError, ImportError, FloatingPointError) as error:
        if os.environ.get('PAB_TRACEBACK') == '1':
            raise
        rank = int(os.environ.get('RANK', 0)) if cfg.get('launcher', 'none') != 'none' else 0
        who = f'process {rank}: ' if rank else ''
        sys.exit(f'error: {who}{_message(error)} (PAB_TRACEBACK=1 shows where)')


def _message(error: BaseException) -> str:
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
