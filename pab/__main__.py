"""The command ``pab``, which ``python -m pab`` is too: the commands in :mod:`pab.cli` by their names."""

import ast
import importlib
import sys
from pathlib import Path

from . import __version__
from .checks import did_you_mean
from .command import end_without_readers

COMMANDS = {path.stem: path for path in sorted((Path(__file__).parent / 'cli').glob('[!_]*.py'))}


def main() -> None:
    """Run the command that the first argument names, as if the others were those of a program of its own."""
    program, *words = sys.argv
    program = 'python -m pab' if program.endswith('.py') else 'pab'
    if words[:1] in ([], ['-h'], ['--help']):
        end_without_readers('help')
        lines = [f'  {name:<10} {_first_line(path)}' for name, path in COMMANDS.items()]
        print(
            '\n'.join([f'usage: {program} COMMAND [ARGUMENTS]', '', *lines, '', f'{program} COMMAND --help says more']),
            flush=True,
        )
        sys.exit(0 if words else 2)
    if words[0] == '--version':
        print(f'pab {__version__}')
        sys.exit()
    if words[0] not in COMMANDS:
        hint = did_you_mean(words[0], COMMANDS) or f'its commands are {", ".join(COMMANDS)}'
        sys.exit(f'error: {program} has no command {words[0]!r}; {hint}')
    sys.argv = [f'{program} {words[0]}', *words[1:]]  # from which argparse takes the name of the program
    run(words[0])


def run(command: str) -> None:
    """Run a command with the arguments of this process."""
    end_without_readers(command)
    try:
        importlib.import_module(f'pab.cli.{command}').main()
    finally:
        sys.stdout.flush()


def _first_line(path: Path) -> str:
    """What a command does, without the seconds that importing it takes."""
    return ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))).splitlines()[0]


if __name__ == '__main__':
    main()
