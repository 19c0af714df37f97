"""Draw the pictures of docs/results.md anew, from its tables and that of zoo/: python docs/pictures/draw.py."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from matplotlib.figure import Figure

from pab.compare.page import draw_amounts
from pab.compare.summary import Spread
from pab.compare.tables import COLUMNS
from pab.report.figures import draw_points, to_png

PAGE = Path(__file__).parents[1] / 'results.md'
ZOO = Path(__file__).parents[2] / 'zoo' / 'README.md'
FACTORS = {letter: 1000**power for power, letter in enumerate('kMGTP', 1)}


def rows_of(page: str) -> list[SimpleNamespace]:
    """The rows of the first table, as draw_amounts takes them in place of summaries."""
    return [row_of(cells) for cells in cells_of(page, '| run | seeds |') if '**' not in cells[0]]


def cells_of(page: str, head: str) -> list[list[str]]:
    """The cells of each row of the table whose first line begins so."""
    lines = page[page.index(head) :].partition('\n\n')[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip()[1:-1].split('|')] for line in lines]


def draw_small(page: str, zoo: str) -> Figure:
    """Accuracy over bytes of the networks up to 100 kB, those of the zoo's table included."""
    rows = [cells[:4] for cells in cells_of(page, '| network | density | size |')]
    own = [cells[:3] for cells in cells_of(zoo, '| file | bytes |')]
    rows += [[f'zoo/{file.strip("`").removesuffix(".pab")}', '', size, text] for file, size, text in own]
    rows = sorted((number(size.replace(',', '')), name, beside, float(text)) for name, beside, size, text in rows)
    series, names = {}, {}
    for size, name, beside, accuracy in rows:
        series.setdefault(name, []).append((size, accuracy, 0.0))
        names.setdefault(name, []).append(beside)
    return draw_points('Networks up to 100 kB', 'bytes', 'accuracy, %', series, names=names)


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
    pictures = draw_amounts(rows_of(PAGE.read_text()))
    pictures['accuracy_up_to_100_kb'] = draw_small(PAGE.read_text(), ZOO.read_text())
    for name, figure in pictures.items():
        (folder / f'{name}.png').write_bytes(to_png(figure))
