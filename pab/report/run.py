"""The files of a run's report: record, pictures and page; and one page for several runs."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..files import write_atomically
from .figures import draw_bars, draw_by_layer, draw_confusion, draw_curves, to_png
from .page import render_page
from .record import FIELDS, RATES, finite

RECORD_FILE, RUN_PAGE, PICTURE_FOLDER = 'report.json', 'report.html', 'report'  # in a work dir
FLIP_RATE, MOVE_RATE = 'flips / (weights x steps)', 'moves / (weights x steps)'
CURVES = {  # picture -> title, unit, logarithmic axis; beginnings of the names of its series
    'accuracy': ('Accuracy', '%', False, ('test accuracy', 'balanced accuracy')),
    'loss': ('Loss', 'cross-entropy', False, ('training loss', 'test loss')),
    'flips': ('Sign flips of an epoch, all layers', FLIP_RATE, True, ('flip rate',)),
    'rates': ('Rates', '', True, tuple(RATES.values())),
}
HEAT_MAPS = {  # picture -> title, unit, logarithmic colours; the values by layer
    'flips_by_layer': ('Sign flips by layer (white: none)', FLIP_RATE, True, 'flip rate'),
    'moves_by_layer': ('Weights that change places, by layer (white: none)', MOVE_RATE, True, 'move rate'),
    'changed_by_layer': ('Signs that differ from the start', 'share of weights', False, 'changed signs'),
    'gradients_by_layer': ('Weight gradients above the threshold', 'share of weights', False, 'gradients kept'),
}
CAPTIONS = {  # picture -> what to see in it
    'accuracy': 'Test accuracy after each validated epoch. It should rise and level off.',
    'confusion': 'A row for each label, a column for each prediction of its images; white is none. A dark cell off the '
    'diagonal is a class that the network takes for another. Small numbers are per cent of the row.',
    'loss': 'Training loss, mean over the epoch, and test loss. One that rises while the other falls is overfitting.',
    'flips': 'Share of the kept weights that flip in a step. It should fall by orders of magnitude: signs settle.',
    'rates': 'Every rate in the last step of each epoch, a line for each optimizer that has it; 0 has no point.',
    'flips_by_layer': 'Dark layers flip often; a white cell is an epoch without any flip.',
    'moves_by_layer': 'Share of the kept weights that change places in a step. A lighter layer has too few pruned '
    'weights with a gradient.',
    'changed_by_layer': 'Share of the kept weights whose sign is not that of the start; 0.5 is chance, white is none.',
    'gradients_by_layer': 'Share of the kept weights with a gradient in the last step of the epoch. A white layer has '
    'none: the threshold is too high for it.',
    'density': 'What pruning keeps of each layer. A layer at 0 cuts the network.',
    'seconds': 'Time of each phase over all parts of a resumed run; data is the wait for images.',
}
CONFUSION_NUMBERS, CONFUSION_COUNTS = ('balanced_accuracy', 'calibration_error'), ('classes', 'counts', 'images')
COMPARED = {  # series of several runs on one page -> unit, logarithmic axis, what to see
    'test accuracy': ('%', False, 'Test accuracy after each validated epoch; compare the ends.'),
    'training loss': ('cross-entropy', False, 'Training loss, mean over each epoch: how fast and how far runs fit.'),
    'flip rate': (FLIP_RATE, True, 'Share of the kept weights that flip in a step: how signs settle.'),
}


def write_record(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write the record of a run into its folder; return the file's path."""
    write_atomically(json.dumps(finite(record), allow_nan=False).encode(), folder / RECORD_FILE)
    return folder / RECORD_FILE


def write_report(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write record, pictures and page of a run into its folder; return the page's path."""
    write_record(folder, record)
    pictures = {name: to_png(figure) for name, figure in draw_run(record).items()}
    for name, data in pictures.items():
        write_atomically(data, folder / PICTURE_FOLDER / f'{name}.png')
    origin = '\n'.join(f'{name}: {value}' for name, value in record['origin'].items())
    texts = [('Settings', record['config']), ('Command, seed and versions', origin)]
    page = render_page(record['name'], record['summary'], record['results'], pictures, CAPTIONS, texts)
    write_atomically(page.encode(), folder / RUN_PAGE)
    return folder / RUN_PAGE


def read_record(folder: Path) -> dict[str, Any]:
    """The record of the run in a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no record.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        raise FileNotFoundError(f'{folder} holds no {RECORD_FILE}, which ReportHook writes after each validation')
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f'{path} is no record of a run: {error}') from error
    for key, kind in FIELDS.items():
        if not isinstance(record, dict) or not isinstance(record.get(key), kind):
            raise ValueError(f'{path} is no record of a run: it lacks {key!r}; ReportHook writes a whole one')
    return record


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Name each folder by the shortest end of its path that no other has: ``a/seed_0`` and ``b/seed_0``.

    Raises:
        ValueError: a folder is given twice.
    """
    every = [Path(os.path.abspath(folder)).parts for folder in folders]
    if twice := [folder for folder, parts in zip(folders, every, strict=True) if every.count(parts) > 1]:
        raise ValueError(f'{twice[0]} is given twice; name each run once')
    names = []
    for parts in every:
        length = 1
        while sum(other[-length:] == parts[-length:] for other in every) > 1:
            length += 1
        names.append(str(Path(*parts[-length:])))
    return names


def draw_run(record: Mapping[str, Any]) -> dict[str, Figure]:
    """Draw the pictures of one run, by name; a picture without any value is left out, and so is one of zeros alone
    on a logarithmic scale, which does not show 0.
    """
    layers, figures = record['layers'], {}
    for name, (title, unit, log, begins) in CURVES.items():
        if lines := {
            key: line for key, line in record['series'].items() if key.startswith(begins) and _is_seen(line, log)
        }:
            figures[name] = draw_curves(title, unit, lines, log)
    if confusion := record.get('confusion'):
        known = [key for key in CONFUSION_NUMBERS if confusion[key] is not None]
        told = ', '.join(f'{key.replace("_", " ")} {confusion[key]:.2f} %' for key in known)
        if (shown := len(confusion['classes'])) < confusion['of']:
            told += f'; the {shown} of {confusion["of"]:,} classes with the lowest accuracy'
        figures['confusion'] = draw_confusion(f'Confusion: {told}', *(confusion[key] for key in CONFUSION_COUNTS))
    for name, (title, unit, log, key) in HEAT_MAPS.items():
        if (rows := layers.get(key)) and (not log or any(map(any, rows.values()))):
            figures[name] = draw_by_layer(title, unit, rows, log)
    if layers.get('density'):
        figures['density'] = draw_bars('Density by layer', 'kept / total', layers['density'])
    if record.get('seconds'):
        figures['seconds'] = draw_bars('Where the time went', 'seconds', record['seconds'], ',.1f')
    return figures


def compare_runs(records: Mapping[str, Mapping[str, Any]]) -> str:
    """A page for several runs by name: one table, and one picture for each kind of curve with a line for each run."""
    results = {run: dict(record['results']) for run, record in records.items()}
    columns = sorted({column for row in results.values() for column in row})
    rows = [[run, *(row.get(column, '') for column in columns)] for run, row in results.items()]
    pictures = {}
    for key, (unit, log, _) in COMPARED.items():
        lines = {run: record['series'].get(key) for run, record in records.items()}
        if lines := {run: line for run, line in lines.items() if _is_seen(line, log)}:
            pictures[key] = to_png(draw_curves(key.capitalize(), unit, lines, log))
    captions = {key: caption for key, (_, _, caption) in COMPARED.items()}
    texts = [(f'Settings of {run}', record['config']) for run, record in records.items()]
    subtitle = f'{len(records)} runs: ' + ', '.join(records)
    return render_page('Runs compared', subtitle, rows, pictures, captions, texts, columns=['run', *columns])


def _is_seen(line: Sequence[Sequence] | None, log: bool) -> bool:
    return bool(line and line[0]) and (not log or any(line[1]))
