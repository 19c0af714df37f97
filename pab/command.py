"""The command line of this process, and its output."""

import io
import os
import shlex
import signal
import stat
import sys
from collections.abc import Sequence

WITHOUT_READERS = ('compare', 'train')  # commands that go on


def words_of(argv: Sequence[str]) -> list[str]:
    """The words of a command line as one types them: ``python`` before a script, no path before the command ``pab``.

    ``argv`` is ``sys.argv``, whose first entry is a script or, as :mod:`pab.__main__` sets it, ``'pab train'``.
    """
    return ['python', *argv] if argv[0].endswith('.py') else [*shlex.split(argv[0]), *argv[1:]]


def end_without_readers(command: str) -> None:
    """Let this process end quietly, with the status of SIGPIPE, once nobody reads its output any more (``| head``).

    The commands of ``WITHOUT_READERS``, whose log is a file, go on without output.
    """
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        try:
            mode = os.fstat(stream.fileno()).st_mode
        except (AttributeError, OSError, ValueError):  # closed, or of a program that keeps the output
            continue
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            stream.flush()
            raw = _Pipe(stream.fileno(), command in WITHOUT_READERS)
            settings = {key: getattr(stream, key) for key in ('encoding', 'errors', 'line_buffering', 'write_through')}
            buffer = raw if stream.write_through else io.BufferedWriter(raw)
            setattr(sys, name, io.TextIOWrapper(buffer, **settings))


class _Pipe(io.FileIO):
    """The writing end of a pipe; Python itself would make a traceback of its other end's closing."""

    def __init__(self, descriptor: int, goes_on: bool) -> None:
        super().__init__(descriptor, 'w', closefd=False)
        self._goes_on = goes_on

    def write(self, data) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if not self._goes_on:
                sys.exit(128 + signal.SIGPIPE)
            return len(data)
