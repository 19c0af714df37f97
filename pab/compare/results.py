"""The result of a training: read from its report and its checkpoint once, and kept in ``result.json``."""

import json
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..checks import some
from ..files import write_atomically
from ..hooks.guards.resume_check import differences, flatten
from ..report.run import read_record
from ..run.checkpoint import load_safely
from .plan import Training

RESULT, COMPACT_FILE = 'result.json', 'network.pab'  # files in the folder of a training
REPORTED = ('epoch', 'max_epochs', 'accuracy', 'best_accuracy', 'density', 'kept', 'prunable', 'flips')
REPORTED += ('macs', 'bit_operations', 'seconds')  # all that a report counts, in this order in a CSV file
MEASURED = ('val_dataloader', 'val_evaluator')  # settings that an accuracy depends on, and the training does not
PACKING = threading.Lock()  # one at a time, for it holds a whole network in memory


@dataclass(frozen=True)
class Result:
    """The result of a finished training.

    Attributes:
        settings: dotted name -> value, of all settings that the training and its accuracy depend on.
        numbers: name in ``REPORTED`` -> number; accuracies in per cent, None for what the training does not have.
        curve: epochs from 1, and the test accuracy after each.
        size: bytes of the network as a compact file, None if it cannot be one.
    """

    settings: dict[str, Any]
    numbers: dict[str, float | None]
    curve: tuple[list[int], list[float]]
    size: int | None


def read_result(training: Training) -> Result | None:
    """The result of a training, None while there is none.

    Raises:
        ValueError: the file cannot be read, or it is of other settings.
    """
    path = training.folder / RESULT
    if not path.is_file():
        return None
    try:
        result = Result(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f'{path} is no result of a training ({error}); remove the file to read it anew') from error
    if changes := differences(result.settings, settings_of(Config.fromstring(training.run.config, '.py'))):
        listed = some([f'{name} was {old!r} and is {new!r}' for name, old, new in changes])
        raise ValueError(
            f'{training.folder} holds the result of other settings: {listed}; go back to those, choose another '
            '--work-dir, or remove the folder to train anew'
        )
    return result


def write_result(training: Training, tell: Callable[[str], None]) -> None:
    """Write the result of a training that has ended; ``tell`` is called with the reason if no compact file can be.

    Raises:
        FileNotFoundError: it left no report.
        ValueError: its report lacks what a comparison needs.
    """
    record = read_record(training.folder)
    numbers, curve = record.get('numbers'), record['series'].get('test accuracy')
    if not isinstance(numbers, dict) or numbers.get('accuracy') is None or not curve:
        raise ValueError(f'the report in {training.folder} has no accuracy; does the config validate?')
    if training.run.imports:
        sys.path.append(str(training.run.imports))
    cfg = Config.fromstring(training.run.config, '.py')
    result = Result(
        settings=settings_of(cfg),
        numbers={key: numbers.get(key) for key in REPORTED},
        curve=curve,
        size=_compact_size(cfg, training.folder, numbers.get('epoch'), tell),
    )
    write_atomically(json.dumps(asdict(result)).encode(), training.folder / RESULT)


def settings_of(cfg: Config) -> dict[str, Any]:
    """Dotted name -> value of all settings that a result depends on: not where data lie, nor how fast they are read."""
    plain: Mapping[str, Any] = json.loads(json.dumps(cfg.to_dict(), default=str))
    measured = {key: plain[key] for key in MEASURED if key in plain}
    return flatten({**plain, 'measured': measured})  # resuming may change what is measured; a result may not


def _compact_size(cfg: Config, folder: Path, epoch: int | None, tell: Callable[[str], None]) -> int | None:
    try:
        from ..compact import pack

        with PACKING:
            pack(cfg, load_safely(folder / f'epoch_{epoch}.pth'), folder / COMPACT_FILE)
    except (ValueError, TypeError, KeyError, RuntimeError, OSError, ImportError) as error:
        tell(f'the network has no compact file: {error}')
        return None
    return (folder / COMPACT_FILE).stat().st_size
