"""Draw the pictures of docs/results.md anew, from the numbers of its first table: python docs/pictures/draw.py."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from pab.compare.page import draw_amounts
from pab.compare.summary import Spread
from pab.compare.tables import COLUMNS
from pab.report.figures import to_png

PAGE = Path(__file__).parents[1] / 'results.md'
FACTORS = {letter: 1000**power for power, letter in enumerate('kMGTP', 1)}


def rows_of(page: str) -> list[SimpleNamespace]:
    """The rows of the first table, as draw_amounts takes them in place of summaries."""
    lines = page[page.index('| run | seeds |') :].partition('\n\n')[0].splitlines()[2:]
    return [row_of([cell.strip() for cell in line.strip('| ').split(' | ')]) for line in lines if '**' not in line]


def row_of(cells: Sequence[str]) -> SimpleNamespace:
    """A row of the table, from its cells."""
    texts = dict(zip(COLUMNS, cells, strict=True))
    accuracy, _, deviation = texts['accuracy, %'].partition(' ± ')
    numbers = {'density': texts['density'], 'bit_operations': texts['bit-operations'], 'size': texts['compact file']}
    return SimpleNamespace(
        run=SimpleNamespace(name=texts['run']),
        results=True,
        accuracy=lambda: Spread(float(accuracy), float(deviation) if deviation else None),
        mean=lambda key: number(numbers[key]),
    )


def number(text: str) -> float:
    """A number as pab.report.amounts.short writes it, such as 42.5kB or 3P."""
    text = text.removesuffix('B')
    return float(text.rstrip(''.join(FACTORS))) * FACTORS.get(text[-1], 1)


if __name__ == '__main__':
    folder = Path(sys.argv[1]) if sys.argv[1:] else PAGE.with_name('pictures')
    for name, figure in draw_amounts(rows_of(PAGE.read_text())).items():
        (folder / f'{name}.png').write_bytes(to_png(figure))
