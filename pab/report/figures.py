"""The pictures of a run, each small enough to be read on a telephone: curves, points, a heat map, bars."""

import io
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from .amounts import short

# Okabe and Ito's colours, which the colour-blind tell apart, ordered so that neighbours differ in lightness as well
COLOURS = ('#0072B2', '#E69F00', '#000000', '#CC79A7', '#009E73', '#56B4E9', '#D55E00')
STROKES = ('-', '--', ':')
MARKERS = ('o', 's', '^', 'D', 'v', 'P', '<')
STYLE = {'font.size': 8, 'axes.grid': True, 'grid.alpha': 0.3}
WIDTH = 4.6  # inches, of every picture
ROW = 0.15  # inches for each layer, and for each line of a legend
TITLE, SMALL = 9, 7  # sizes of fonts

Curve = tuple[Sequence[float], Sequence[float | None]]


def draw_curves(
    title: str, unit: str, curves: Mapping[str, Curve], log: bool = False, order: Iterable[str] = ()
) -> Figure:
    """Lines over epochs.

    Args:
        title: of the picture.
        unit: of the values; label of the axis.
        curves: name -> (epochs from 1, values); None and NaN leave a gap.
        log: use a logarithmic axis; values that are not above 0 are left out.
        order: all names of several pictures, so that each has the same colour and marker in all of them.
    """
    figure, axes = _figure(2.5)
    looks, handles = _looks(order, curves), {}
    for name, (epochs, values) in curves.items():
        x, y = np.array(epochs, dtype=float), np.array(values, dtype=float)
        shown = y > 0 if log else slice(None)
        (handles[name],) = axes.plot(x[shown], y[shown], **looks[name], ms=2.5, label=name)
    if log and any(len(line.get_ydata()) for line in handles.values()):
        axes.set_yscale('log')
    if every := [epoch for epochs, _ in curves.values() for epoch in epochs]:
        axes.set_xlim(min(every) - 0.5, max(every) + 0.5)
    _add_legend(figure, handles)
    _label(axes, title, 'epoch', unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def draw_points(
    title: str,
    amount: str,
    unit: str,
    series: Mapping[str, Sequence[tuple[float, float, float]]],
    order: Iterable[str] = (),
    names: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Figure:
    """Points over an amount, those of a series joined from left to right.

    Args:
        title: of the picture.
        amount: label of the horizontal axis, which is logarithmic if amounts differ by more than a factor of 10.
        unit: of the values; label of the other axis.
        series: name -> (amount > 0, value, half the length of its error bar); a legend is below the picture.
        order: as for :func:`draw_curves`.
        names: name of a series -> a text for each of its points, which stands beside it.
    """
    figure, axes = _figure(2.5)
    looks, handles = _looks(order, series), {}
    for name, points in series.items():
        x, y, errors = zip(*sorted(points), strict=True)
        errors = [e or np.nan for e in errors]
        handles[name] = axes.errorbar(x, y, errors, **looks[name], ms=4, lw=1, capsize=2, label=name)
        for (at, value, _), text in zip(points, names.get(name, ()), strict=name in names):
            axes.annotate(text, (at, value), (3, 3), textcoords='offset points', fontsize=5, parse_math=False)
    amounts = [x for points in series.values() for x, _, _ in points]
    if max(amounts) > 10 * min(amounts):
        axes.set_xscale('log')
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(lambda number, _: short(number))
    _add_legend(figure, handles)
    _label(axes, title, amount, unit)
    return figure


def draw_by_layer(title: str, unit: str, values: Mapping[str, Sequence[float | None]], log: bool = False) -> Figure:
    """A heat map: a row for each layer, a column for each epoch; more is darker, none is white.

    Args:
        title: of the picture.
        unit: of the values; label of the colour bar.
        values: layer -> one value for each epoch, from the first; 0, None and NaN are white.
        log: colours on a logarithmic scale up to the largest value; else on a linear one up to 1 or that value.
    """
    figure, axes = _figure(max(2.5, ROW * len(values) + 1.0))
    table = np.ma.masked_less_equal(np.ma.masked_invalid(np.array(list(values.values()), dtype=float)), 0)
    positive = table.compressed()
    largest = positive.max(initial=0.0 if log else 1.0) or 1.0
    norm = LogNorm(positive.min(), largest) if log and len(np.unique(positive)) > 1 else Normalize(0, largest)
    _add_heat_map(axes, table, norm, unit, extent=(0.5, table.shape[1] + 0.5, len(values) - 0.5, -0.5))
    axes.set_yticks(range(len(values)), list(values), fontsize=6, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.tick_params(axis='x', labelsize=7)
    _label(axes, title, 'epoch', '')
    return figure


def draw_confusion(
    title: str, classes: Sequence[str], counts: Sequence[Sequence[int]], images: Sequence[int]
) -> Figure:
    """A heat map: a row for each label, a column for each prediction; the share of the label's images, 0 is white.

    Args:
        title: of the picture.
        classes: K names, which are shortened.
        counts: (K, K) images, of each label the predictions; up to 12 classes have the per cents in their cells.
        images: (K,) of each label, which may be more than its row shows; a row of a label without any is white.
    """
    size = 6 if len(classes) <= 25 else 4
    figure, axes = _figure(max(1.2, max(ROW / 2, min(ROW, 3.0 / len(classes))) * len(classes)) + 2.3)
    names = [_shortened(figure, ' '.join(name.split()), size, 1.2) for name in classes]
    table = np.array(counts, dtype=float) / np.maximum(1, images)[:, None]
    # the norm lets a tenth be seen
    bar = _add_heat_map(axes, np.ma.masked_equal(table, 0), PowerNorm(0.5, 0, 1), 'share of the label')
    bar.set_ticks([0, 0.1, 0.3, 1])
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size, parse_math=False)
    rows = [f'{name} ({number:,})' for name, number in zip(names, images, strict=True)]
    axes.set_yticks(range(len(names)), rows, fontsize=size, parse_math=False)
    for (row, column), share in np.ndenumerate(table if len(names) <= 12 else table[:0]):
        if share:
            colour = 'white' if share > 0.3 else 'black'
            axes.text(column, row, f'{100 * share:.0f}', ha='center', va='center', fontsize=6, color=colour)
    _label(axes, title, 'prediction', 'label (images)', left=2.2)
    return figure


def draw_bars(title: str, unit: str, values: Mapping[str, float], digits: str = '.2f') -> Figure:
    """Horizontal bars, the first on top, each with its number."""
    figure, axes = _figure(max(1.6, ROW * len(values) + 0.8))
    rows = range(len(values))
    axes.barh(rows, list(values.values()), color=COLOURS[0])
    largest = max(values.values(), default=0) or 1
    for row, value in zip(rows, values.values(), strict=True):
        axes.text(value + 0.01 * largest, row, f'{value:{digits}}' if value else '0', va='center', fontsize=6)
    axes.set_yticks(rows, list(values), fontsize=6, parse_math=False)
    axes.set_xlim(0, 1.15 * largest)  # room for the number behind the longest bar
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.grid(axis='y', visible=False)
    _label(axes, title, unit, '')
    return figure


def to_png(figure: Figure) -> bytes:
    """The picture as a PNG of 150 dots an inch."""
    out = io.BytesIO()
    with rc_context(STYLE), _any_letter():
        figure.savefig(out, format='png', dpi=150)
    return out.getvalue()


def draw_densities(title: str, layers: Mapping[str, Sequence[float]]) -> Figure:
    """Bars of the density of each layer, and beside them its channels, the densest first; none is white.

    Args:
        title: of the picture.
        layers: name -> the kept share of each of its output channels, in [0, 1].

    Raises:
        ValueError: there is no layer.
    """
    if not layers:
        raise ValueError('picture: the network has no pruned layer, whose density it would show')
    figure, (bars, channels) = _figure(max(2.5, ROW * len(layers) + 1.0), ncols=2, sharey=True, width_ratios=(2, 3))
    rows, means = range(len(layers)), [float(np.mean(shares)) for shares in layers.values()]
    bars.barh(rows, means, color=COLOURS[0])
    for row, mean in zip(rows, means, strict=True):
        bars.text(mean + 0.02, row, f'{mean:.3f}', va='center', fontsize=6)
    bars.set_yticks(rows, list(layers), fontsize=6, parse_math=False)
    bars.set_ylim(len(layers) - 0.5, -0.5)
    bars.set_xlim(0, 1.3)
    bars.set_xticks([0, 0.5, 1])
    bars.grid(axis='y', visible=False)
    places = np.arange(200)
    table = np.array([np.sort(shares)[::-1][places * len(shares) // 200] for shares in layers.values()])
    extent = 0, 100, len(layers) - 0.5, -0.5
    _add_heat_map(channels, np.ma.masked_equal(table, 0), Normalize(0, 1), 'density of a channel', extent=extent)
    for axes in (bars, channels):
        axes.tick_params(axis='x', labelsize=7)
    figure.suptitle(title, fontsize=TITLE, x=0.02, ha='left', parse_math=False)
    bars.set_xlabel('density', fontsize=SMALL)
    channels.set_xlabel('output channels, densest first, %', fontsize=SMALL)
    return figure


def _add_heat_map(axes, table: np.ma.MaskedArray, norm: Normalize, unit: str, **options: Any):
    """Draw a table, whose masked cells are white, and beside it its colour bar, which is returned."""
    colours = colormaps['cividis_r'].with_extremes(bad='white')
    image = axes.imshow(table, aspect='auto', interpolation='nearest', cmap=colours, norm=norm, **options)
    axes.grid(False)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label(unit, fontsize=7)
    bar.ax.tick_params(labelsize=7)
    return bar


def _figure(height: float, **grid: Any):
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout='constrained')
        FigureCanvasAgg(figure)
        return figure, figure.subplots(**grid)


def _looks(order: Iterable[str], names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour, marker and stroke by name, all its own for each of the first 42; names beyond ``order`` follow.

    Marker and stroke alone tell them apart, without colour.
    """
    looks = {}
    for index, name in enumerate(dict.fromkeys([*order, *names])):
        turn, place = divmod(index, len(COLOURS))
        stroke, filled = STROKES[turn // 2 % len(STROKES)], turn % 2 == 0
        looks[name] = {'color': COLOURS[place], 'marker': MARKERS[(place + turn) % len(MARKERS)], 'linestyle': stroke}
        looks[name]['markerfacecolor'] = COLOURS[place] if filled else 'white'
    return looks


def _add_legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """Add a legend below the axes, apart from title and curves; its rows make the picture higher."""
    names = [_broken(figure, name, SMALL, WIDTH - 0.5) for name in handles]
    columns = 2 if all('\n' not in name and _width(figure, name, SMALL) < 1.8 for name in names) else 1
    lines = sum(name.count('\n') + 1 for name in names)
    figure.set_figheight(figure.get_figheight() + ROW * (ceil(lines / columns) + 0.5))
    legend = figure.legend(list(handles.values()), names, loc='outside lower center', ncols=columns, fontsize=SMALL)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _broken(figure: Figure, text: str, size: int, inches: float) -> str:
    """Break a text into lines that are no wider."""
    letters, lines = len(text), [text]
    while letters > 1 and max(_width(figure, line, size) for line in lines) > inches:
        letters = int(0.9 * letters)
        lines = textwrap.wrap(text, letters)
    return '\n'.join(lines)


def _shortened(figure: Figure, text: str, size: int, inches: float) -> str:
    letters = len(text)
    while letters > 1 and _width(figure, text if letters == len(text) else f'{text[:letters]}…', size) > inches:
        letters -= 1
    return text if letters == len(text) else f'{text[:letters]}…'


def _width(figure: Figure, text: str, size: int) -> float:
    font = FontProperties(size=size)
    with _any_letter():
        return figure.canvas.get_renderer().get_text_width_height_descent(text, font, False)[0] / figure.dpi


@contextmanager
def _any_letter() -> Iterator[None]:
    """Let boxes stand for letters that the font lacks, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing from font')
        yield


def _label(axes, title: str, x: str, y: str, left: float = 0.8) -> None:
    title = _broken(axes.figure, title, TITLE, WIDTH - left)  # it begins above the axes, behind their label and numbers
    axes.set_title(title, fontsize=TITLE, loc='left', parse_math=False)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
