"""The checkpoints in the folders of a run: which one it goes on from, and whether it may begin there at all."""

import errno
import fcntl
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from torch import nn

from ..checks import some
from .checkpoint import UnusableCheckpoint, check_resumable, check_sums, load_safely, missing_for_resume

NOT_FOR_RESUME = 'diverged_'  # begins the names of checkpoints that are kept to look at, not to go on from
LOCK = 'train.lock'  # in the folder of a run that trains, and left there; says whose it is
GIVEN_BY_RUNS = re.compile(r'(epoch_|iter_|best_|interrupted|diverged_)')  # begins the names that runs give


class RunFile(NamedTuple):
    """A file that a run wrote."""

    written: tuple[int, ...]
    """``meta.written`` of the checkpoint, 0 where it has none, its step and its epoch: what is larger is newer."""
    path: Path
    content: Any = None
    """None where it cannot be read."""


def run_files(folders: Iterable[str | os.PathLike], tell: Callable[[str], None] = lambda _: None) -> list[RunFile]:
    """The checkpoints that runs wrote into some folders, the newest first, before them the unreadable ones.

    What is newest is decided by what stands in the files, not by their dates, which change when files are copied.
    ``tell`` is called with one sentence for each other file, such as pretrained weights.
    """
    files = []
    for path in {path.resolve(): path for folder in folders for path in sorted(Path(folder).glob('*.pth'))}.values():
        try:
            content = load_safely(path, check=False)
        except UnusableCheckpoint as error:
            if GIVEN_BY_RUNS.match(path.name):
                files.append(RunFile((sys.maxsize,), path))
            else:
                tell(f'passing over a file: {error}')
            continue
        if missing := [key for key in missing_for_resume(content) if key != 'optimizer']:
            tell(f'passing over {path}: it is no checkpoint to resume a run from, it has no {", ".join(missing)}')
        else:
            written = [content['meta'].get(key, 0) for key in ('written', 'iter', 'epoch')]
            files.append(RunFile(tuple(map(int, written)), path, content))
    return sorted(files, key=lambda file: file.written, reverse=True)


def find_newest(
    folders: Iterable[str | os.PathLike], tell: Callable[[str], None], model: nn.Module | None = None
) -> RunFile | None:
    """Find the newest checkpoint that a run in these folders can go on from; None when there is none.

    Its checksums have been verified and its numbers are finite, so its content needs no other look.

    Args:
        folders: searched for ``*.pth``, not below; one that does not exist is empty.
        tell: called with one sentence for each file that is passed over, with its name and the reason.
        model: whose buffers may hold NaN and infinity.

    Raises:
        UnusableCheckpoint: all that could have been one are damaged or not finite, so starting anew may not be meant.
    """
    unusable = []
    for file in run_files(folders, tell):
        path, content = file.path, file.content
        if path.name.startswith(NOT_FOR_RESUME):
            tell(f'passing over {path}: it was written when the loss was no longer finite')
            continue
        if content and 'optimizer' not in content:
            if not path.name.startswith('best_'):  # those never have one
                tell(f'passing over {path}: it is no checkpoint to resume a run from, it has no optimizer')
            continue
        try:
            if content is None:
                load_safely(path)  # says what is wrong with it
            check_sums(path)
            check_resumable(content, path, model)
            return file
        except UnusableCheckpoint as error:
            tell(f'passing over a file: {error}')
            unusable.append(path)
    if unusable:
        raise UnusableCheckpoint(
            f'no checkpoint in {unusable[0].parent} can be resumed, {", ".join(path.name for path in unusable)} '
            f'{"is" if len(unusable) == 1 else "are"} damaged or not finite; remove what cannot be used to start anew'
        )
    return None


@contextmanager
def locked(folder: str | os.PathLike, tell: Callable[[str], None]) -> Iterator[None]:
    """Let no other process train in a folder, which is made; the system frees it when this process ends in any way.

    A process may lock a folder again; the first end frees it. Where the file system has no locks, ``tell`` is called
    with a sentence instead.

    Raises:
        BlockingIOError: another process does; the error names it.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with Path(folder, LOCK).open('a+') as file:
        try:
            # of this process alone: flock's would also be held by a killed run's data workers, for seconds
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise BlockingIOError(
                    f'work_dir {os.fspath(folder)} is in use: {file.read().strip() or "another process"} trains in it; '
                    'wait for its end, or choose another --work-dir'
                ) from error
            tell(f'{os.fspath(folder)} cannot be locked ({error.strerror}): let no other run train in it')
        else:
            file.truncate(0)
            print(f'process {os.getpid()} on {socket.gethostname()}', file=file, flush=True)
        yield


def choose_start(runner: Runner) -> tuple[str | None, Any, list[Path]]:
    """Decide which checkpoint a run goes on from, so that its folders hold none that is later and another run's.

    A job that torchrun starts again (``--max-restarts``) goes on from its newest checkpoint whatever the config says.

    Returns:
        The file, None to start from the beginning; its content, if it has been read and is sound; and the checkpoints
        to be removed before the first step.

    Raises:
        FileExistsError: there are such checkpoints, and the config does not have ``overwrite=True``.
        UnusableCheckpoint: there are checkpoints to resume from, but none of them can be used.
    """
    folders, start = checkpoint_folders(runner), runner.start_file if runner.resumes else None
    restarted = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) > 0
    newest_counts = restarted or (runner.resumes and start is None)
    if newest_counts and (newest := find_newest(folders, runner.logger.warning, runner.bare_model)):
        return str(newest.path), newest.content, []
    files = run_files(folders)
    here = Path(start or '').expanduser().resolve()
    if start and '://' not in start and not here.is_file():
        raise FileNotFoundError(f'resume: there is no checkpoint {start}')
    same = [file for file in files if file.path.resolve() == here]
    left = [file.path for file in files if not same or (file.written > same[0].written and file.content)]
    if left and not runner.cfg.get('overwrite', False):
        resume = 'none of them is one to resume from: ' if newest_counts else 'go on from the newest by --resume, '
        raise FileExistsError(
            f'work_dir {runner.work_dir} already holds {some([path.name for path in left])}, which a run that begins '
            f'{f"at {start}" if start else "anew"} would be mixed up with; {resume}choose another --work-dir, or '
            'remove them by --overwrite (in a config: resume, work_dir, overwrite)'
        )
    return start, None, left


def checkpoint_folders(runner: Runner) -> list[str]:
    """The work dir of a run, and behind it the folders that its CheckpointHooks write into instead."""
    out_dirs = [hook.out_dir for hook in runner.hooks if isinstance(hook, CheckpointHook) and hook.out_dir]
    name = os.path.basename(runner.work_dir.rstrip(os.sep))
    return [runner.work_dir, *(os.path.join(folder, name) for folder in out_dirs)]
