"""From a command line to a runner: what the commands of pab share."""

import argparse
import dis
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.logging import MMLogger
from torch import distributed

from ..datasets import asks_data, classes_in, settle_auto
from ..files import FULL, reason_of
from ..registry import RUNNERS
from .allocator import keep_freed_memory
from .checkpoint import load_any
from .config import check_config, merge_options, read_config
from .config_files import find_config
from .distributed import process_group, rank_of_process
from .face import on_first_process
from .storage import check_writable
from .work_dir import LOCK, locked

IN_ONE_LINE = (ValueError, TypeError, KeyError, OSError, SyntaxError, ImportError, FloatingPointError)


SHOW = '(PAB_TRACEBACK=1 shows where)'


class KeyValue(DictAction):
    """mmengine's KEY=VALUE, that refuses something else in one line."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Parse what stands behind the option."""
        for text in values:
            try:
                super().__call__(parser, namespace, [text], option_string)
            except (ValueError, AssertionError, RecursionError):  # no equals sign; brackets of another kind, or open
                rule = 'takes KEY=VALUE, such as train_cfg.max_epochs=8, and no dicts'
                sys.exit(f'error: {option_string} {rule}, got {text!r}')


def add_config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add the config and what changes it."""
    nargs = None if required else '?'
    parser.add_argument('config', nargs=nargs, help='a Python config file, or a name that pab config --list has')
    text = 'replace values of the config, such as train_cfg.max_epochs=8'
    parser.add_argument('--cfg-options', nargs='+', action=KeyValue, metavar='KEY=VALUE', help=text)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every tool that builds a runner."""
    add_config_arguments(parser)
    text = 'folder for logs and checkpoints (default: work_dirs/<config>, with _seedN after it by --seed N)'
    parser.add_argument('--work-dir', help=text)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')


def add_seed_argument(parser: argparse.ArgumentParser) -> None:
    """Add the seed."""
    parser.add_argument('--seed', type=int, help='of weights, pruning and data order (default: that of the config)')


def load_config(args: argparse.Namespace) -> Config:
    """Read the config of a command line, which replaces parts of it; SystemExit if it is none or has a wrong key.

    What it leaves to its data is settled. The number of classes is that of ``args.checkpoint`` or ``args.file``
    where one is named.
    """
    with errors_in_one_line():
        path = find_config(args.config)
    sys.path.append(str(path.parent.resolve()))  # modules of custom_imports may lie beside the config
    with errors_in_one_line(f'{path}: '):
        cfg = read_config(path)
        merge_options(cfg, args.cfg_options or {})
        check_config(cfg)
    trained = getattr(args, 'checkpoint', None) or getattr(args, 'file', None)
    with errors_in_one_line():
        classes = classes_in(load_any(trained)) if trained and asks_data(cfg) else None
    with errors_in_one_line(f'{path}: '), suppress(FileNotFoundError):  # a file may know as much as the training data
        settle_auto(cfg, len(classes) if classes else None)
    name = path.stem
    if getattr(args, 'seed', None) is not None:
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=args.seed)
        name += f'_seed{args.seed}'
    if hasattr(args, 'launcher'):
        cfg.launcher = args.launcher
        cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / name)
    return cfg


def run(cfg: Config, act: Callable[[Any], Any], trains: bool = False) -> None:
    """Build the runner of a config, with the launcher and work dir of the command line, and let it act.

    One that ``trains`` locks its work dir before the runner writes anything there. One that fails before its training
    begins leaves no log and no folder behind.
    """
    if get_device() == 'cpu':
        keep_freed_memory()
    rank = rank_of_process() if cfg.get('launcher', 'none') != 'none' else 0
    folder, runner = Path(os.path.abspath(cfg.work_dir)), None
    before = {*folder.glob('*')}
    missing = [path for path in (folder / LOCK, folder, *folder.parents) if not os.path.exists(path)]
    with errors_in_one_line(f'process {rank}: ' if rank else '', cfg.work_dir), process_group(cfg), ExitStack() as held:
        try:
            if trains and (rank == 0 or distributed.is_initialized()):  # some launchers' processes meet in the runner
                on_first_process(lambda: check_writable(cfg.work_dir))
                on_first_process(lambda: held.enter_context(locked(cfg.work_dir, lambda _: None)))  # the runner tells
            runner = RUNNERS.build(cfg)
            act(runner)
        except Exception:
            if rank == 0 and not getattr(runner, 'began', False):
                _remove_traces(folder, before, missing)
            raise


def _remove_traces(folder: Path, before: set[Path], missing: list[Path]) -> None:
    """Remove the log of this process from a work dir, unless it was there ``before``, and what was ``missing``."""
    for handler in MMLogger.get_current_instance().handlers:
        path = Path(getattr(handler, 'baseFilename', folder)).parent  # mmengine's folder for one run
        if path.parent == folder and path not in before:
            shutil.rmtree(path, ignore_errors=True)
    for path in missing:
        with suppress(OSError):  # a folder that holds something else stays
            path.unlink() if path.name == LOCK else path.rmdir()


@contextmanager
def errors_in_one_line(who: str = '', folder: str | os.PathLike | None = None) -> Iterator[None]:
    """End the process with one line, which ``who`` begins, for an error in what the user gave or the machine has.

    Unless a ``raise`` in pab made the error, and so says what to do, the line tells how to see the traceback. So it is
    with what mmengine and torch assert, which is about settings. A RuntimeError of others that is not known
    (:func:`way_out`) passes. ``folder`` is where files are written.
    """
    try:
        yield
    except (*IN_ONE_LINE, AssertionError, RuntimeError, MemoryError) as error:
        if os.environ.get('PAB_TRACEBACK') == '1':
            raise
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        trace = error.__traceback__
        while trace.tb_next:
            trace = trace.tb_next
        code, module = trace.tb_frame.f_code, trace.tb_frame.f_globals.get('__name__', '')
        ours = module.startswith('pab.') and dis.opname[code.co_code[trace.tb_lasti]] == 'RAISE_VARARGS'
        if not ours and (known := way_out(error, folder)):
            text, ours = known, True
        refused = isinstance(error, AssertionError) and module.partition('.')[0] in ('mmengine', 'torch')
        if not ours and not refused and not isinstance(error, IN_ONE_LINE):
            raise
        if not ours:
            text = f'{type(error).__name__}: {" ".join(text.split())} {SHOW}'
        sys.exit(f'error: {who}{text}')


def way_out(error: BaseException, folder: str | os.PathLike | None = None) -> str | None:
    """Cause and way out, in a line, of errors that the machine makes and others raise; None for any other."""
    text = str(error).strip()
    if text.startswith('Caught ') and ' in DataLoader worker process ' in text:  # with the worker's traceback behind it
        cause = text.splitlines()[-1]
        if re.search('MemoryError|allocate memory|Insufficient memory|shared memory|</torch_', cause):
            return (
                f'memory is short in a worker of a data loader: {cause}; lower num_workers or batch_size of the loader '
                '(in a container, raise --shm-size), and go on with --resume'
            )
        files = re.findall(r'File "(.*?)", line', text)
        is_ours = bool(files) and Path(files[-1]).is_relative_to(Path(__file__).parents[1])
        return cause if is_ours else f'{cause} {SHOW}'
    if match := re.match(r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)', text):
        return (
            f'process {match[1]}, a worker of a data loader, was ended by the system ({match[2].splitlines()[0]}); '
            'most often memory is short (in a container, --shm-size): lower num_workers or batch_size of the loader, '
            'and go on with --resume'
        )
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return (
            f'memory is short: {(text.splitlines() or ["a MemoryError"])[0]}; lower train_dataloader.batch_size '
            '(optim_wrapper.accumulative_counts keeps the batch of an update), and go on with --resume'
        )
    if re.search(r"Output size is too small|Kernel size can't be greater|expected input.* to have \d+ channels", text):
        return f'images do not fit the network: {text.splitlines()[0]}; change their size or channels, or the network'
    if re.search(r'Connection (closed|reset) by peer|Broken pipe', text) and distributed.is_initialized():
        return 'another process of this run has ended; its own message says why. Go on with --resume'
    if isinstance(error, OSError) and error.errno in FULL and folder:
        return f'{error.filename or f"a file in {folder}"} cannot be written: {reason_of(error, folder)}'
    return None
