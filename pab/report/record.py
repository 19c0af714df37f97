"""The record of a run: plain data for its checkpoints and for ``report.json``."""

import math
import platform
import shlex
import sys
import time
from collections.abc import Mapping
from typing import Any

import mmengine
import numpy as np
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict

from .. import __version__
from ..command import words_of
from ..contracts import learning_rates
from ..evaluation import ClassResults
from ..machine import processor
from .amounts import short

FIELDS = {'name': str, 'summary': str, 'results': list, 'series': dict, 'layers': dict, 'config': str, 'origin': dict}
PARTS = {  # a field -> the form of each of its entries
    'results': 'be a pair of texts',
    'series': 'be epochs and as many numbers',
    'layers': 'hold a number by layer, or lists of one length',
    'seconds': 'be a number',
    'numbers': 'be a number or null',
}
LARGEST = float(np.finfo(np.float32).max)  # of what is drawn; the axes of a picture multiply numbers
SHOWN = 50  # classes of a confusion
NOT_TIMED = 'checkpoints'  # the phase between two others
RATES = {  # of optimizers
    'lr': 'learning rate',
    'adaptivity_rate': 'adaptivity rate',
    'flip_share': 'share of flips',
    'move_share': 'share of moves',
}


class RunRecord:
    """Series over epochs, of the run and of its layers, and the seconds of each phase.

    Attributes:
        series: name -> {epoch from 1: value}.
        layers: name -> layer -> {epoch from 1: value}.
        seconds: phase -> seconds so far, over all parts of a resumed run.
        confusion: :func:`confusion_record` of the last validation; None where no metric has one.
    """

    def __init__(self) -> None:
        self.series: dict[str, dict[int, float]] = {}
        self.layers: dict[str, dict[str, dict[int, float]]] = {}
        self.seconds: dict[str, float] = {}
        self.confusion: dict[str, Any] | None = None
        self._mark = time.monotonic()

    def add(self, name: str, epoch: int, value: float) -> None:
        """Note the value of an epoch, in place of one that it had before a resume."""
        self.series.setdefault(name, {})[epoch] = float(value)

    def add_layers(self, name: str, epoch: int, values: dict[str, float]) -> None:
        """Note the values of all layers for an epoch."""
        for layer, value in values.items():
            self.layers.setdefault(name, {}).setdefault(layer, {})[epoch] = float(value)

    def spent(self, phase: str, share_elsewhere: float = 0.0) -> None:
        """Count the time since the last call for a phase, except ``share_elsewhere`` seconds of another."""
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + max(0.0, now - self._mark - share_elsewhere)
        self._mark = now

    def start_clock(self) -> None:
        """Count from now on."""
        self._mark = time.monotonic()

    def state(self) -> dict[str, Any]:
        """The record as plain data for a checkpoint."""
        named = ('series', 'layers', 'seconds', 'confusion')
        return {name: getattr(self, name) for name in named}

    def load(self, state: dict[str, Any]) -> None:
        """Replace the record by one of :meth:`state`."""
        self.series, self.layers, self.seconds = state['series'], state['layers'], state['seconds']
        self.confusion = state.get('confusion')  # which files of before it lack

    def as_curves(self) -> dict[str, tuple[list[int], list[float]]]:
        """name -> (epochs, values), in the order of epochs."""
        return {name: (sorted(s), [s[epoch] for epoch in sorted(s)]) for name, s in self.series.items()}

    def as_tables(self, epochs: int) -> dict[str, dict[str, list[float]]]:
        """name -> layer -> a value for each epoch from the first; 0 where none was noted."""
        return {
            name: {layer: [s.get(epoch, 0.0) for epoch in range(1, epochs + 1)] for layer, s in rows.items()}
            for name, rows in self.layers.items()
        }


def summary(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows (name, text) for people, from a run's ``numbers`` in ``report.json``; None has no row."""
    n, rows = numbers, []
    if n['accuracy'] is not None:
        best = f'best {n["best_accuracy"]:.2f} % at epoch {n["best_epoch"]}'
        name = n.get('metric', 'accuracy/top1')
        rows.append(('accuracy' if name == 'accuracy/top1' else name, f'{n["accuracy"]:.2f} % ({best})'))
    if n['density'] is not None:
        rows.append(('density', f'{n["density"]:.4f} ({n["kept"]:,} of {n["prunable"]:,} prunable weights)'))
    if n['flips'] is not None:
        rows.append(('flips', f'{n["flips"]:,}'))
    if n['macs'] is not None:
        rows.append(('training', f'{short(n["macs"])} MACs, {short(n["bit_operations"])} bit-operations'))
    return rows


def confusion_record(results: ClassResults) -> dict[str, Any]:
    """Confusions as plain data, of 50 classes at most: of more, those with images and the lowest accuracy."""
    worst = np.argsort(results.accuracy, kind='stable')[:SHOWN]  # NaN, of no image, comes last
    chosen = sorted(worst.tolist())
    return {
        'classes': [results.classes[index] for index in chosen],
        'counts': results.confusion[np.ix_(chosen, chosen)].tolist(),
        'images': results.images[chosen].tolist(),
        'of': len(results.classes),
        'balanced_accuracy': results.balanced_accuracy,
        'calibration_error': results.calibration_error,
    }


def rates_of(optim_wrapper: OptimWrapper | OptimWrapperDict) -> dict[str, float]:
    """Every rate and share by name, such as ``'learning rate of sgd'``; with ``', group 1'`` where it has several."""
    named = isinstance(optim_wrapper, OptimWrapperDict)
    rates = {}
    for name, wrapper in optim_wrapper.items() if named else [('', optim_wrapper)]:
        groups, has_rate = wrapper.optimizer.param_groups, bool(learning_rates([wrapper.optimizer]))
        for index, group in enumerate(groups):
            whose = (f' of {name}' if named else '') + (f', group {index}' if len(groups) > 1 else '')
            shown = [key for key in RATES if key in group and (key != 'lr' or has_rate)]
            rates |= {f'{RATES[key]}{whose}': group[key] for key in shown}
    return rates


def finite(data: Any) -> Any:
    """Replace infinities and NaN in plain data, which JSON does not have, by None."""
    if isinstance(data, Mapping):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def find_fault(record: Any) -> str | None:
    """Say what keeps plain data, such as a stranger's ``report.json``, from being drawn; None if nothing does."""
    for key, kind in {**FIELDS, 'seconds': dict, 'numbers': dict}.items():
        if not isinstance(record, dict) or not isinstance(record.get(key, None if key in FIELDS else {}), kind):
            return f'it lacks {key!r}'
    for part, form in PARTS.items():
        entries = record.get(part, {})
        for key, entry in entries.items() if isinstance(entries, dict) else enumerate(entries):
            if not _has_form(part, key, entry):
                return f'{part}[{key!r}] must {form}, got {entry!r:.100}; the largest that is drawn is {LARGEST:.2g}'
    if (confusion := record.get('confusion')) is not None and not _is_confusion(confusion):
        return f'confusion must have names, counts and images of each class, and three numbers, got {confusion!r:.100}'
    return None


def _has_form(part: str, key: Any, entry: Any) -> bool:
    if part == 'results':
        return isinstance(entry, list) and [type(cell) for cell in entry] == [str, str]
    if part == 'series':
        lists = isinstance(entry, list) and len(entry) == 2 and all(isinstance(column, list) for column in entry)
        return lists and len(entry[0]) == len(entry[1]) and _numbers(entry[0]) and _numbers(entry[1], gaps=True)
    if part == 'layers':
        rows = list(entry.values()) if isinstance(entry, dict) else [None]
        if key == 'density':
            return _numbers(rows)
        lists = all(isinstance(row, list) and row and _numbers(row, gaps=True) for row in rows)
        return lists and len({len(row) for row in rows}) <= 1
    if part == 'numbers':
        return isinstance(entry, str) if key == 'metric' else _numbers([entry], gaps=True)
    return _numbers([entry])


def _is_confusion(entry: Any) -> bool:
    """Tell if plain data has the form of :func:`confusion_record`."""
    keys = {'classes', 'counts', 'images', 'of', 'balanced_accuracy', 'calibration_error'}
    if not isinstance(entry, dict) or not keys <= entry.keys():
        return False
    classes, counts, images = (entry[key] for key in ('classes', 'counts', 'images'))
    if not all(isinstance(part, list) and part for part in (classes, counts, images)):
        return False
    square = all(isinstance(row, list) and len(row) == len(classes) and _numbers(row) for row in counts)
    sizes = square and len(counts) == len(images) == len(classes) and _numbers([*images, entry['of']])
    named = all(isinstance(name, str) for name in classes)
    return sizes and named and _numbers([entry['balanced_accuracy'], entry['calibration_error']], gaps=True)


def _numbers(values: list, gaps: bool = False) -> bool:
    """Tell if all are numbers of up to ``LARGEST``, with ``gaps`` NaN, infinity or None too."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            if not (gaps and value is None):
                return False
        elif not abs(value) <= LARGEST and not (gaps and isinstance(value, float) and not math.isfinite(value)):
            return False
    return True


def origin(seed: int) -> dict[str, Any]:
    """Collect what made a run: command, seed, versions, machine."""
    return {
        'command': shlex.join(words_of(sys.argv)),
        'seed': seed,
        'pab': __version__,
        'torch': torch.__version__,
        'mmengine': mmengine.__version__,
        'python': platform.python_version(),
        'machine': torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        'threads': torch.get_num_threads(),
    }
