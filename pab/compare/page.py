"""The pictures of a comparison, and its page: pictures, table and all settings."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ..files import write_atomically
from ..report.figures import draw_curves, draw_points, to_png
from ..report.page import render_page
from .plan import TABLE_PAGE, Comparison
from .summary import Results, Summary, summarize
from .tables import COLUMNS, LEGEND, table_rows

AMOUNTS = {  # a number that accuracy is drawn over -> name of the picture, and of the axis
    'density': ('accuracy_over_density', 'density'),
    'bit_operations': ('accuracy_over_bit_operations', 'bit-operations of the training'),
    'size': ('accuracy_over_bytes', 'bytes of the compact file'),
}
OVER_AMOUNTS = (
    'Means over seeds, with one standard deviation up and down; a line joins the groups of one run, whose densities '
    'stand beside the points where they differ.'
)
OVER_EPOCHS = 'The mean over seeds after each epoch that all of them measured; compare the ends.'


def draw_comparison(comparison: Comparison, results: Results) -> dict[str, Figure]:
    """Draw the pictures, by name; a picture without any value is left out."""
    summaries = summarize(comparison, results)
    figures = draw_amounts(summaries)
    order = [run.name for run in comparison.runs]
    for index, group in enumerate(comparison.sections(), 1):
        shown = [summary for summary in summaries if summary.run.group == group and summary.results]
        if shown:
            title = f'Accuracy over epochs{f", {group}" if group else ""}'
            curves = {summary.run.name: summary.curve() for summary in shown}
            figures[f'accuracy_over_epochs_{index}'] = draw_curves(title, 'accuracy, %', curves, order=order)
    return figures


def draw_amounts(summaries: Sequence[Summary]) -> dict[str, Figure]:
    """Draw accuracy over each of ``AMOUNTS``, by name; a picture without any value is left out."""
    order = [summary.run.name for summary in summaries]  # a name has the same colour and marker in all of them
    densities = {(summary.run.name, f'{summary.mean("density"):.2g}') for summary in summaries if summary.results}
    swept, figures = {name for name, count in Counter(name for name, _ in densities).items() if count > 1}, {}
    for key, (name, label) in AMOUNTS.items():
        if key == 'density' and not swept:
            continue
        series: dict[str, list[tuple[float, float, float]]] = {}
        named: dict[str, list[str]] = {}
        for summary in summaries:  # a run of the same name in several groups is one line
            amount, accuracy = summary.mean(key), summary.accuracy()
            if amount and accuracy:
                point = amount, accuracy.mean, accuracy.deviation or 0.0
                series.setdefault(summary.run.name, []).append(point)
                if key != 'density' and summary.run.name in swept:
                    named.setdefault(summary.run.name, []).append(f'{summary.mean("density"):.2g}')
        if series:
            figures[name] = draw_points(f'Accuracy over {label}', label, 'accuracy, %', series, order, named)
    return figures


def write_page(folder: Path, name: str, comparison: Comparison, results: Results) -> Path:
    """Write ``report.html``, and beside it as PNG the pictures over an amount; return the page's path."""
    pictures = {title: to_png(figure) for title, figure in draw_comparison(comparison, results).items()}
    for picture, _ in AMOUNTS.values():
        if picture in pictures:
            write_atomically(pictures[picture], folder / f'{picture}.png')
    settings = [(f'Settings of {run.title}', run.config) for run in comparison.runs]
    subtitle = f'{comparison.title} {LEGEND}'
    captions = dict.fromkeys(pictures, OVER_EPOCHS) | {picture: OVER_AMOUNTS for picture, _ in AMOUNTS.values()}
    page = render_page(name, subtitle, table_rows(comparison, results), pictures, captions, settings, COLUMNS)
    write_atomically(page.encode(), folder / TABLE_PAGE)
    return folder / TABLE_PAGE
