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
