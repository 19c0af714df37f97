"""The commands of the README and of docs/: each one runs as it stands there, or has a reason why no test runs it."""

import itertools
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable

import pytest
from PIL import Image

from pab.__main__ import COMMANDS, main
from tests.test_tools.test_readme import PAGES, ROOT

COMMAND = re.compile(
    rf'(?:PAB_\w+=\S+ )?(?:python tools/\w+\.py|tools/\w+\.sh|(?<=[`\n ])pab (?:{"|".join(COMMANDS)})) [^`|#\n]+'
)
# Part of a command -> why it is not run here.
NOT_RUN = {
    'CONFIG': 'a pattern',
    'FILE': 'a pattern',
    'WORK_DIR': 'a pattern',
    'cifar': 'CIFAR-10, and most often hours',
    'signs_r20': 'CIFAR-10, and hours',
    'edge_popup': 'CIFAR-10',
    'ways/moves': 'CIFAR-10',
    'imagenet': 'ImageNet',
    'benchmark.py': 'measures for minutes; tests/test_tools/test_benchmark.py runs it in small',
    'dist_train.sh': 'several processes; tests/test_run/test_distributed.py starts some',
    'folder': 'photographs; tests/test_tools/test_own_photographs.py trains it',
    'mine/': 'tests/test_tools/test_readme.py runs what mine/ holds',
}


def commands() -> list[tuple[str, str]]:
    """(page, command) of all pages, without the comments behind them."""
    joined = {page: re.sub(r' *\\\n *', ' ', text) for page, text in PAGES.items()}
    found = [(page, match[0].strip()) for page, text in joined.items() for match in COMMAND.finditer(text)]
    return [*dict.fromkeys(found)]


def reason(command: str) -> str | None:
    return next((why for part, why in NOT_RUN.items() if part in command), None)


RUN = [(page, command) for page, command in commands() if reason(command) is None]


def test_every_command_is_run_or_has_a_reason():
    assert {page for page, _ in RUN} == {'README.md', 'export.md', 'files.md', 'runs.md'}
    assert len(RUN) >= 12
    assert [part for part in NOT_RUN if not any(part in command for _, command in commands())] == []


@pytest.fixture
def shell(monkeypatch, capfd) -> Callable:
    """A function: a command -> what it printed; it runs in this process."""

    def run(command: str) -> str:
        words = shlex.split(command)
        words = words[words[0] == 'python' :]
        monkeypatch.setattr(sys, 'argv', words)
        monkeypatch.setattr(sys, 'path', [*sys.path])
        try:
            main() if words[0] == 'pab' else runpy.run_path(words[0], run_name='__main__')
        except SystemExit as ended:
            assert not ended.code, f'{command}: {ended.code}\n{"".join(capfd.readouterr())}'
        return ''.join(capfd.readouterr())

    return run


@pytest.mark.slow
def test_commands_as_they_stand(shell, tmp_path, monkeypatch):
    """Each page in a folder of its own, with one epoch of the quickstart, which the commands take for its last.

    What trains again trains one epoch, too, in a work dir of its own.
    """
    one, first = 'train_cfg.max_epochs=1', tmp_path / 'first'
    shell(f'pab train pab/quickstart --work-dir {first} --cfg-options {one}')
    shell(f'pab compact pack pab/quickstart {first}/epoch_1.pth {tmp_path}/digits.pab')
    made, runs = set(), itertools.count()
    for page in dict.fromkeys(page for page, _ in RUN):
        words = [command for of, command in RUN if of == page]
        folder = tmp_path / page.removesuffix('.md')
        (folder / 'work_dirs' / 'quickstart').mkdir(parents=True)
        shutil.copy(first / 'epoch_1.pth', folder / 'work_dirs' / 'quickstart' / 'epoch_20.pth')
        (folder / 'photos').mkdir()
        for name in ('photo.png', 'photos/a.jpg'):
            Image.new('RGB', (20, 30)).save(folder / name)
        for name in ('tools', 'configs'):
            (folder / name).symlink_to(ROOT / name)
        if not any(' pack ' in command for command in words):
            shutil.copy(tmp_path / 'digits.pab', folder)
        monkeypatch.chdir(folder)
        for command in words:
            trains, runs_network = (
                re.search(rf'(/|pab ){kind}\b', command) for kind in ('train', '(train|test|prune)')
            )
            command += f'{" --cfg-options" * ("--cfg-options" not in command)} {one}' if trains else ''
            command += f' --work-dir work_dirs/{next(runs)}' if runs_network and '--work-dir' not in command else ''
            shell(command)
        made |= {path.name for path in folder.iterdir()}
    assert {
        'digits.pab',
        'digits.pth',
        'classes.csv',
        'digits.onnx',
        'digits.pt2',
        'densities.png',
        'quickstart.py',
    } <= made
