"""The command line of this process."""

import shlex
from collections.abc import Sequence


def words_of(argv: Sequence[str]) -> list[str]:
    """The words of a command line as one types them: ``python`` before a script, no path before the command ``pab``.

    ``argv`` is ``sys.argv``, whose first entry is a script or, as :mod:`pab.__main__` sets it, ``'pab train'``.
    """
    return ['python', *argv] if argv[0].endswith('.py') else [*shlex.split(argv[0]), *argv[1:]]
