"""Alternating runs, paired ratios, and the table they are reported in."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..machine import processor
from ..psg.autograd import fast_bfloat16


@dataclass(frozen=True)
class Settings:
    """Settings of the command line that all measures share."""

    device: str = 'cpu'
    repeats: int = 15
    warmup: int = 3
    tiny: bool = False
    """smallest networks and batches: shows that the benchmark runs, measures nothing"""
    full: bool = False
    """also what takes minutes"""
    compile: bool = False
    """also networks compiled as a whole"""

    def for_small_ratios(self) -> 'Settings':
        """With more rounds, for contenders that differ by less than two rounds of one of them may."""
        return self if self.tiny else replace(self, repeats=4 * self.repeats)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device == 'cuda':
            torch.cuda.synchronize()


@dataclass
class Row:
    """One line of the table: a contender, and its ratio to a peer that ran in turns with it."""

    measure: str
    case: str
    name: str
    median: float
    spread: float
    """half the distance between the quartiles, in the unit of the median"""
    unit: str = 'ms'
    peer: str | None = None
    ratio: float | None = None
    ratio_spread: float | None = None
    details: dict = field(default_factory=dict)


def alternate(runs: Mapping[str, Callable[[], object]], settings: Settings) -> dict[str, list[float]]:
    """Run the contenders in turns (A B A B ...) and return the seconds of each of their rounds, without the warm-up.

    A run may return a number of seconds that it measured itself; else the whole call counts.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(settings.warmup + settings.repeats):
        for name, run in runs.items():
            settings.synchronize()
            start = time.perf_counter()
            own = run()
            settings.synchronize()
            seconds[name].append(own if isinstance(own, float) else time.perf_counter() - start)
    return {name: values[settings.warmup :] for name, values in seconds.items()}


def median_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """The median and half the distance between the quartiles."""
    if len(values) == 1:
        return values[0], 0.0
    low, middle, high = statistics.quantiles(values, n=4, method='inclusive')
    return middle, (high - low) / 2


def row(
    measure: str,
    case: str,
    name: str,
    seconds: Mapping[str, Sequence[float]],
    peer: str | None = None,
    **details,
) -> Row:
    """The row of one contender of :func:`alternate`, with the median of its paired ratios to ``peer``."""
    median, spread = median_and_spread([1e3 * value for value in seconds[name]])
    ratio = ratio_spread = None
    if peer is not None:
        ratio, ratio_spread = median_and_spread([a / b for a, b in zip(seconds[name], seconds[peer], strict=True)])
    return Row(measure, case, name, median, spread, 'ms', peer, ratio, ratio_spread, details)


def environment(settings: Settings) -> dict[str, object]:
    """Hardware, versions and threads."""
    info = {
        'cpu': processor(),
        'instruction_set': torch.backends.cpu.get_cpu_capability(),
        'fast_bfloat16': fast_bfloat16('cpu'),
        'cpu_count': os.cpu_count(),
        'load_average': [round(value, 2) for value in os.getloadavg()],
        'threads': torch.get_num_threads(),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'repeats': settings.repeats,
        'tiny': settings.tiny,
    }
    if settings.device == 'cuda':
        info |= {'gpu': torch.cuda.get_device_name(), 'cuda': torch.version.cuda}
    return info


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table, with the details of each below it."""
    header = ('measure', 'case', 'contender', 'median', 'ratio', 'to')
    body, notes = [], []
    for r in rows:
        ratio = '' if r.ratio is None else f'{r.ratio:.3f} ± {r.ratio_spread:.3f}'
        number = f'{r.median:.4g} ± {r.spread:.2g} {r.unit}'
        body.append((r.measure, r.case, r.name, number, ratio, r.peer or ''))
        if r.details:
            notes.append(f'{r.measure}, {r.case}, {r.name}: ' + ', '.join(f'{k} {v}' for k, v in r.details.items()))
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    lines = [header, tuple('-' * width for width in widths), *body]
    text = '\n'.join('| ' + ' | '.join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + ' |' for line in lines)
    return '\n\n'.join([text, '\n'.join(notes)] if notes else [text])
