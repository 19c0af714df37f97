"""The rows of a comparison, for people as Markdown and for programs as CSV."""

import re
from collections.abc import Sequence

from ..files import csv_text
from ..report.amounts import clock, short
from .plan import Comparison
from .results import REPORTED
from .summary import Results, Spread, Summary, paired_difference, summarize

COLUMNS = ('run', 'seeds', 'accuracy, %', 'difference', 'density', 'flips', 'training MACs', 'bit-operations')
COLUMNS += ('time', 'compact file')
AMOUNTS = {  # number of a summary -> text of its mean, for the columns from density on
    'density': '{:.4g}'.format,
    **dict.fromkeys(('flips', 'macs', 'bit_operations'), short),
    'seconds': clock,
    'size': lambda size: f'{short(size)}B',
}
LEGEND = (
    'Accuracy is that on the test set after the last epoch, ± the standard deviation over seeds. A difference is the '
    'mean over the seeds that both runs have, paired; in brackets is its 95 % t-interval. Other columns are means over '
    'seeds; MACs and bit-operations are those of the whole training. Where a mean is over fewer seeds than the row '
    'has, brackets say over how many. A - is for no number: only optimizers that flip signs count flips.'
)
UNKNOWN = '-'


def table_rows(comparison: Comparison, results: Results) -> list[list[str]]:
    """The cells of the table: a row for each run, below a row with the name of its group, if it has one."""
    summaries = {(s.run.group, s.run.name): s for s in summarize(comparison, results)}
    rows = []
    for group, runs in comparison.sections().items():
        if group:
            rows.append([group, *[''] * (len(COLUMNS) - 1)])
        rows += [_row(summaries[group, run.name], summaries.get((group, run.against))) for run in runs]
    return rows


def to_markdown(comparison: Comparison, results: Results) -> str:
    """The title, the table, and what its columns mean."""
    title = re.sub(r'^(\d*)([#+.)-])', r'\1\\\2', _escaped(comparison.title))  # no heading, no item of a list
    lines = [title, '', _line(COLUMNS), '|' + '---|' * len(COLUMNS)]
    for cells in table_rows(comparison, results):
        section = not any(cells[1:])
        lines.append(_line([f'**{_escaped(cells[0])}**', *cells[1:]] if section else map(_escaped, cells)))
    lines += ['', LEGEND]
    if missing := len(comparison.trainings()) - len(results):
        lines += ['', f'{missing} of {len(comparison.trainings())} trainings have no result yet.']
    return '\n'.join(lines) + '\n'


def to_csv(comparison: Comparison, results: Results) -> str:
    """A line for each training that has a result, with all its numbers in full."""
    rows: list[list] = [['group', 'name', 'seed', *REPORTED, 'compact_bytes']]
    for training in comparison.trainings():
        if result := results.get(training):
            run, numbers = training.run, (result.numbers[key] for key in REPORTED)
            rows.append([run.group, run.name, training.seed, *numbers, result.size])
    return csv_text(rows)


def _row(summary: Summary, other: Summary | None) -> list[str]:
    difference = _difference(summary, other) if other else ''
    cells = [summary.run.name, str(len(summary.results)), _accuracy(summary.accuracy()), difference]
    for key, write in AMOUNTS.items():
        mean = summary.mean(key)
        cells.append(UNKNOWN if mean is None else write(mean) + _counted(len(summary.values(key)), summary))
    return cells


def _counted(seeds: int, summary: Summary) -> str:
    """Say over how many seeds a mean is, if these are fewer than the row has."""
    if seeds == len(summary.results):
        return ''
    return ' (one seed)' if seeds == 1 else f' ({seeds} seeds)'


def _accuracy(accuracy: Spread | None) -> str:
    if accuracy is None:
        return UNKNOWN
    return f'{accuracy.mean:.2f}' + ('' if accuracy.deviation is None else f' ± {accuracy.deviation:.2f}')


def _difference(summary: Summary, other: Summary) -> str:
    difference = paired_difference(summary.accuracies(), other.accuracies())
    if difference is None:
        return f'no common seed with {other.run.name}' if summary.results and other.results else UNKNOWN
    mean, seeds, half = difference
    interval = ' (one seed)'
    if half is not None:
        interval = f' [{mean - half:+.2f}, {mean + half:+.2f}]{_counted(seeds, summary)}'
    return f'{mean:+.2f}{interval} to {other.run.name}'


def _line(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'


def _escaped(text: str) -> str:
    """Put a text in one line, with everything escaped that Markdown acts on within a line."""
    return re.sub(r'[\\`*<>|~$&]|(?<!\w)_|_(?!\w)|\](?=[(\[:])', r'\\\g<0>', ' '.join(text.split()))
