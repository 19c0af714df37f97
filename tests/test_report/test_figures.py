"""Pictures: they show the values, nothing is cut off, every line is in the legend, looks stay the same."""

from collections import Counter

import numpy as np
import pytest
from matplotlib.text import Text

from pab.report.figures import (
    draw_bars,
    draw_by_layer,
    draw_confusion,
    draw_curves,
    draw_densities,
    draw_points,
    to_png,
)


def curves(names):
    return draw_curves('Accuracy', '%', {name: ([1, 2], [50.0 + i, 60.0 + i]) for i, name in enumerate(names)})


def points(names):
    return draw_points('Accuracy', 'bytes', '%', {name: [(1.0 + i, 50.0, 1.0)] for i, name in enumerate(names)})


def legend_of(figure):
    """The legend, and the names in it with their lines joined again."""
    (legend,) = figure.legends
    return legend, [text.get_text().replace('\n', '') for text in legend.get_texts()]


@pytest.mark.parametrize('draw', [curves, points])
@pytest.mark.parametrize(
    'names',
    [
        [f'SynFlow, signs by Bop {i}' for i in range(13)],
        [f'magnitude with rewinding, weights by SGD {i}' for i in range(5)],
        ['x' * 200, 'W' * 60, 'b', 'c'],
        ['one'],
    ],
    ids=['many', 'long', 'very long', 'one'],
)
def test_a_legend_is_within_the_picture_and_below_the_axes(draw, names):
    figure = draw(names)
    figure.draw_without_rendering()  # lays it out
    legend, shown = legend_of(figure)
    assert [name.replace(' ', '') for name in shown] == [name.replace(' ', '') for name in names]
    box, axes, whole = legend.get_window_extent(), figure.axes[0].get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert whole.y0 <= box.y0 < box.y1 <= axes.y0
    assert axes.height / figure.dpi > 1.5


@pytest.mark.parametrize('draw', [curves, points])
@pytest.mark.parametrize('names', [['a $x^{$', '$', '_c'], ['_a', '_b', '$x$', 'd']])
def test_names_are_shown_as_they_are(draw, names):
    figure = draw(names)
    to_png(figure)
    legend, shown = legend_of(figure)
    assert shown == names
    assert not any(text.get_parse_math() for text in legend.get_texts())


def test_a_title_is_within_the_picture_and_no_mathematics():
    figure = draw_curves('Accuracy over epochs, ' + 'W' * 60 + ' $x^{$', '%', {'a': ([1], [2.0])})
    figure.draw_without_rendering()
    (title,) = [text for text in figure.axes[0].findobj(Text) if text.get_text().startswith('Accuracy over')]
    assert title.get_window_extent().x1 <= figure.bbox.x1
    assert not title.get_parse_math()


def test_looks_go_by_the_place_of_a_name():
    order = [str(number) for number in range(42)]
    every = draw_curves('', '', {name: ([1], [1.0]) for name in order}).axes[0].lines
    looks = {line.get_label(): (line.get_color(), line.get_marker()) for line in every}
    assert set(Counter(looks.values()).values()) == {1}
    grey = [(line.get_marker(), line.get_linestyle(), line.get_markerfacecolor() == 'white') for line in every]
    assert set(Counter(grey).values()) == {1}
    some = draw_curves('', '', {name: ([1], [1.0]) for name in ('30', '2', 'new')}, order=order).axes[0].lines
    assert [(line.get_color(), line.get_marker()) for line in some[:2]] == [looks['30'], looks['2']]
    series = draw_points('', '', '', {'7': [(1.0, 1.0, 0.0)]}, order=order).axes[0].containers[0].lines[0]
    assert (series.get_color(), series.get_marker()) == looks['7']


def test_each_curve_shows_its_own_values():
    given = {'a': ([1, 2, 4], [3.0, None, 5.0]), 'b': ([2], [7.0])}
    lines = {line.get_label(): line for line in draw_curves('', '', given).axes[0].lines}
    assert list(lines) == ['a', 'b']
    assert np.array_equal(lines['a'].get_xydata(), [[1, 3], [2, np.nan], [4, 5]], equal_nan=True)
    assert lines['b'].get_xydata().tolist() == [[2, 7]]


def test_a_logarithmic_axis_leaves_out_what_is_not_above_0():
    axes = draw_curves('', '', {'a': ([1, 2, 3, 4], [0.0, 2.0, None, 4.0]), 'b': ([1], [0.0])}, log=True).axes[0]
    assert axes.get_yscale() == 'log'
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[2, 2], [4, 4]], []]
    assert draw_curves('', '', {'a': ([1], [0.0])}, log=True).axes[0].get_yscale() == 'linear'


def test_each_series_of_points_shows_its_own_values():
    axes = draw_points('', '', '', {'a': [(3.0, 1.0, 0.5), (2.0, 4.0, 0.0)], 'b': [(9.0, 8.0, 0.0)]}).axes[0]
    assert [box.lines[0].get_xydata().tolist() for box in axes.containers] == [[[2, 4], [3, 1]], [[9, 8]]]


def colours(values, log):
    """The cells of a heat map: name -> colours of its epochs, as the picture has them."""
    image = draw_by_layer('', '', values, log).axes[0].images[0]
    return dict(zip(values, image.to_rgba(image.get_array()).tolist(), strict=True))


@pytest.mark.parametrize('log', [True, False])
@pytest.mark.parametrize('some', [[0.5, 0.25], [0.5, 0.5], [0.0, 0.0]], ids=['different', 'equal', 'none'])
def test_cells_without_a_flip_are_white_and_no_others(some, log):
    white = [1.0, 1.0, 1.0, 1.0]
    cells = colours({'a': [0.0, some[0]], 'b': [some[1], None], 'c': [float('nan'), 0.0]}, log)
    expected = [[True, some[0] == 0], [some[1] == 0, True], [True, True]]
    assert [[cell == white for cell in row] for row in cells.values()] == expected


@pytest.mark.parametrize('log', [True, False])
def test_more_is_darker(log):
    (row,) = colours({'a': [0.01, 0.1, 1.0]}, log).values()
    light = [sum(colour[:3]) for colour in row]
    assert light == sorted(light, reverse=True)
    assert len(set(light)) == 3


def test_bars_show_their_values_from_the_top():
    axes = draw_bars('', '', {'a': 0.5, 'b': 0.0, 'c': 2.0}).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.5, 0.0, 2.0]
    assert [text.get_text() for text in axes.texts] == ['0.50', '0', '2.00']
    assert axes.yaxis_inverted()


def test_a_confusion_has_a_row_for_each_label():
    counts = [[3, 1, 0], [0, 0, 0], [0, 2, 6]]
    axes = draw_confusion('', ['a, $x$', 'b\nb', 'm' * 40], counts, [5, 0, 8]).axes[0]
    assert axes.images[0].get_array().tolist() == [[0.6, 0.2, None], [None, None, None], [None, 0.25, 0.75]]
    labels = axes.get_yticklabels()
    assert [text.get_text() for text in labels] == ['a, $x$ (5)', 'b b (0)', 'm' * 14 + '… (8)']
    assert not any(text.get_parse_math() for text in (*labels, *axes.get_xticklabels()))
    assert [(text.get_position(), text.get_text()) for text in axes.texts] == [
        ((0, 0), '60'),
        ((1, 0), '20'),
        ((1, 2), '25'),
        ((2, 2), '75'),
    ]


@pytest.mark.parametrize('number', [2, 12, 13, 50])
def test_a_confusion_is_within_the_picture(number):
    names = [f'{"W" * 22}{n}' for n in range(number)]
    figure = draw_confusion('Confusion: ' + 'W ' * 40, names, np.eye(number, dtype=int), [1] * number)
    figure.draw_without_rendering()
    axes, whole = figure.axes[0], figure.bbox
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    boxes = [text.get_window_extent() for text in texts]
    assert all(whole.x0 <= box.x0 < box.x1 <= whole.x1 and whole.y0 <= box.y0 < box.y1 <= whole.y1 for box in boxes)
    assert bool(axes.texts) == (number <= 12)
    assert axes.get_window_extent().height / figure.dpi > 0.5


def test_letters_that_a_font_lacks_warn_nobody(recwarn):
    to_png(draw_confusion('', ['日本', 'b'], [[1, 0], [0, 1]], [1, 1]))
    assert not recwarn


@pytest.mark.parametrize('epochs', [*range(1, 12), 180])
@pytest.mark.parametrize('kind', ['curves', 'layers'])
def test_an_epoch_axis_has_whole_numbers(kind, epochs):
    values = [1.0] * epochs
    draw, shown = (draw_curves, (range(1, epochs + 1), values)) if kind == 'curves' else (draw_by_layer, values)
    axis = draw('', '', {'a': shown}).axes[0].xaxis
    low, high = axis.get_view_interval()
    ticks = [tick for tick in axis.get_ticklocs() if low <= tick <= high]
    assert ticks
    assert all(tick == int(tick) for tick in ticks)


@pytest.mark.parametrize('draw', [draw_by_layer, draw_bars])
def test_names_of_layers_are_shown_as_they_are(draw):
    names = ['a $x^{$', '$', r'b\$', '_c']
    figure = draw('', '', {name: [1.0] if draw is draw_by_layer else 1.0 for name in names})
    to_png(figure)
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == names
    assert not any(label.get_parse_math() for label in labels)


def test_densities_of_layers_and_channels():
    layers = {'a': [0.0, 1.0, 0.5, 0.5], '$b': [0.25]}
    figure = draw_densities('Kept', layers)
    to_png(figure)
    bars, channels, _ = figure.axes
    assert [bar.get_width() for bar in bars.patches] == [0.5, 0.25]
    assert [text.get_text() for text in bars.texts] == ['0.500', '0.250']
    assert [text.get_text() for text in bars.get_yticklabels()] == ['a', '$b']
    (image,) = channels.images
    shown = image.get_array()
    quarters = [shown[0, 50 * quarter : 50 * (quarter + 1)] for quarter in range(4)]
    assert [float(np.unique(q.filled(0)).item()) for q in quarters] == [1.0, 0.5, 0.5, 0.0]
    assert shown.mask[0].sum() == 50
    assert (shown[1] == 0.25).all()
    with pytest.raises(ValueError, match='picture: the network has no pruned layer'):
        draw_densities('Kept', {})
