"""From a command line to a runner: what ``tools/train.py``, ``test.py`` and ``prune.py`` share."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from ..registry import RUNNERS
from .config import check_config


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every tool takes."""
    parser.add_argument('config', help='a Python config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/<name of the config>)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='replace values of the config, such as train_cfg.max_epochs=8',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    # torchrun's predecessor passes it; torchrun itself sets the environment variable
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config that the command line names, and let the command line replace parts of it.

    Raises:
        SystemExit: there is no such file, or nothing would read a key of it.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    path = Path(args.config)
    if not path.is_file():
        sys.exit(f'error: there is no config {path}; those that come with pab are in configs/pab/')
    cfg = Config.fromfile(str(path))
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    try:
        check_config(cfg)
    except ValueError as error:
        sys.exit(f'error: {error}')
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / path.stem)
    return cfg


def run(cfg: Config, act: Callable[[Any], Any]) -> Any:
    """Build the runner of a config and let it act."""
    runner = RUNNERS.build(cfg)
    return act(runner)
