"""From the record of a run, or of several, to pictures and a page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..files import write_atomically
from .figures import draw_bars, draw_by_layer, draw_curves, to_png
from .page import render_page

RECORD, PAGE, PICTURES = 'report.json', 'report.html', 'report'  # files and folder in a work dir
MOST_SERIES = 7  # curves that one picture can tell apart


def write_record(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write the record of a run into its folder; return the file's path."""
    write_atomically(json.dumps(record).encode(), folder / RECORD)
    return folder / RECORD


def write_report(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write record, pictures and page of a run into its folder; return the page's path."""
    write_record(folder, record)
    pictures = {name: to_png(figure) for name, figure in draw_run(record).items()}
    for name, data in pictures.items():
        write_atomically(data, folder / PICTURES / f'{name}.png')
    page = render_page(
        record['name'],
        record['summary'],
        record['results'],
        pictures,
        [('Settings', record['config']), ('Command, seed and versions', _lines(record['origin']))],
    )
    write_atomically(page.encode(), folder / PAGE)
    return folder / PAGE


def read_record(folder: Path) -> dict[str, Any]:
    """The record of the run in a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no record.
    """
    path = folder / RECORD
    if not path.is_file():
        raise FileNotFoundError(f'{folder} holds no {RECORD}, which ReportHook writes after each validation')
    try:
        record = json.loads(path.read_text())
        record['series'], record['layers'], record['results']
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is no record of a run: {error}') from error
    return record


def draw_run(record: Mapping[str, Any]) -> dict[str, Figure]:
    """The pictures of one run by name; those without any value are left out."""
    series, layers = record['series'], record['layers']
    curves = {
        'accuracy': ('Accuracy', '%', {k: series.get(k) for k in ('test accuracy',)}, False),
        'loss': ('Loss', 'cross-entropy', {k: series.get(k) for k in ('training loss', 'test loss')}, False),
        'flips': ('Sign flips of an epoch', 'flips / (weights x steps)', {'all layers': series.get('flip rate')}, True),
        'rates': ('Rates', '', {k: series.get(k) for k in ('adaptivity rate', 'learning rate')}, True),
    }
    figures = {}
    for name, (title, unit, lines, log) in curves.items():
        lines = {label: line for label, line in lines.items() if line and line[0]}
        if lines:
            figures[name] = draw_curves(title, unit, lines, log)
    maps = {
        'flips_by_layer': ('Sign flips by layer (white: none)', 'flips / (weights x steps)', 'flip rate', True),
        'changed_by_layer': ('Signs that differ from the start', 'share of weights', 'changed signs', False),
        'gradients_by_layer': ('Weight gradients above the threshold', 'share of weights', 'gradients kept', False),
    }
    for name, (title, unit, key, log) in maps.items():
        if layers.get(key):
            figures[name] = draw_by_layer(title, unit, layers[key], log)
    if layers.get('density'):
        figures['density'] = draw_bars('Density by layer', 'kept / total', layers['density'])
    if record.get('seconds'):
        figures['seconds'] = draw_bars('Where the time went', 'seconds', record['seconds'], ',.1f')
    return figures


def compare_runs(records: Sequence[Mapping[str, Any]]) -> str:
    """A page for several runs: one table, and one picture for each kind of curve with a line for each run."""
    names = sorted({row[0]: None for record in records for row in record['results']})
    rows = [[record['name'], *(dict(record['results']).get(name, '') for name in names)] for record in records]
    pictures = {}
    for key, unit, log in (
        ('test accuracy', '%', False),
        ('training loss', 'cross-entropy', False),
        ('flip rate', 'flips / (weights x steps)', True),
    ):
        lines = {r['name']: r['series'][key] for r in records if r['series'].get(key)}
        shown = dict(list(lines.items())[:MOST_SERIES])
        if shown:
            left_out = '' if len(shown) == len(lines) else f' (first {MOST_SERIES} of {len(lines)} runs)'
            title = key[0].upper() + key[1:] + left_out
            pictures[title] = to_png(draw_curves(title, unit, shown, log))
    texts = [(f'Settings of {record["name"]}', record['config']) for record in records]
    subtitle = f'{len(records)} runs: ' + ', '.join(record['name'] for record in records)
    return render_page('Runs compared', subtitle, rows, pictures, texts, columns=['run', *names])


def _lines(values: Mapping[str, Any]) -> str:
    return '\n'.join(f'{name}: {value}' for name, value in values.items())
