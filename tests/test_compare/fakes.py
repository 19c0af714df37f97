"""A training without any training: what ``tools/train.py`` leaves, in milliseconds."""

import sys
import time
from pathlib import Path

from pab.compare.plan import Comparison, Run, Training
from pab.compare.results import Result

# Called as tools/train.py is. The name of the run says how it goes: one called 'fails' fails, 'silent' leaves no
# report, and 'slow' waits for a file 'go'. It notes in 'events' when it starts, with its options, and when it ends.
SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path

config, _, seed, _, folder, *options = sys.argv[1:]
folder, seed = Path(folder), int(seed)
name = folder.parent.name


def note(event):
    with (folder / 'events').open('a') as file:
        file.write(f'{event}\\n')


def save(number, frame):
    (folder / 'interrupted.pth').touch()
    note('interrupted')
    sys.exit(128 + number)


signal.signal(signal.SIGTERM, save)
threads, paths = (os.environ.get(key) for key in ('OMP_NUM_THREADS', 'PYTHONPATH'))
print('hello from', name, 'with', threads, 'threads', paths, flush=True)
note(' '.join(['start', *options]))
if name == 'fails':
    sys.exit('boom')
while name == 'slow' and not (folder / 'go').exists():
    time.sleep(0.02)
numbers = {'epoch': 2, 'max_epochs': 2, 'accuracy': 60.0 + seed, 'seconds': 10.0, 'density': 0.25, 'macs': 1500}
record = {'name': 'x', 'summary': '', 'config': '', 'origin': {}, 'results': [], 'layers': {}}
record |= {'series': {'test accuracy': [[1, 2], [50.0, 60.0 + seed]]}, 'numbers': numbers}
if name != 'silent':
    (folder / 'report.json').write_text(json.dumps(record))
note('end')
"""


def fake_command(folder: Path) -> list[str]:
    """The command of the script, which is written into a folder."""
    (folder / 'fake.py').write_text(SCRIPT)
    return [sys.executable, str(folder / 'fake.py')]


def make_run(folder: Path, name: str = 'a', **changes) -> Run:
    """A run in a folder of its own."""
    told = dict(group='', against=None, seeds=1, folder=folder / name, config='x = 1\n', imports=None)
    return Run(name=name, **told | changes)


def events(training: Training) -> list[str]:
    """The notes of a training."""
    file = training.folder / 'events'
    return file.read_text().splitlines() if file.is_file() else []


def make_result(accuracy: float, **changes) -> Result:
    """A result with made-up numbers; ``changes`` are its numbers and its size."""
    size = changes.pop('size', 1000)
    numbers = dict(epoch=2, max_epochs=2, accuracy=accuracy, best_accuracy=accuracy, density=0.3, kept=3, prunable=10)
    numbers |= dict(flips=12345, macs=1_500_000, bit_operations=2_000_000_000, seconds=61.0) | changes
    return Result({}, numbers, ([1, 2], [accuracy - 10, accuracy]), size)


def three_runs(folder: Path) -> tuple[Comparison, dict[Training, Result]]:
    """``a`` and ``b|c`` of a group, with three seeds and two, and one without a group and without a result."""
    a = make_run(folder, 'a', group='g', against='b|c', seeds=3)
    b = make_run(folder, 'b|c', group='g', seeds=2)
    other = make_run(folder, 'other', group='', seeds=1)
    results = {Training(a, seed): make_result(value) for seed, value in enumerate((62.0, 66.0, 64.0))}
    results |= {Training(b, seed): make_result(value, flips=None) for seed, value in enumerate((61.0, 62.0))}
    return Comparison('What is compared.', (a, b, other)), results


def until(condition, seconds=300):
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, 'waited too long'
        time.sleep(0.01)
    return found


def child_of(process):
    """The id of the only process that another has started."""
    (child,) = ' '.join(file.read_text() for file in Path(f'/proc/{process}/task').glob('*/children')).split()
    return int(child)
