"""Pictures with many lines and odd names: nothing is cut off, every line is in the legend, looks stay the same."""

from collections import Counter

import pytest
from matplotlib.text import Text

from pab.report.figures import draw_curves, draw_points, to_png


def curves(names):
    return draw_curves('Accuracy', '%', {name: ([1, 2], [50.0 + i, 60.0 + i]) for i, name in enumerate(names)})


def points(names):
    return draw_points('Accuracy', 'bytes', '%', {name: [(1.0 + i, 50.0, 1.0)] for i, name in enumerate(names)})


def legend_of(figure):
    """The legend, and the names in it with their lines joined again."""
    (legend,) = figure.legends or [figure.axes[0].get_legend()]
    return legend, [text.get_text().replace('\n', '') for text in legend.get_texts()]


@pytest.mark.parametrize('draw', [curves, points])
@pytest.mark.parametrize(
    'names',
    [
        [f'SynFlow, signs by Bop {i}' for i in range(13)],
        [f'magnitude with rewinding, weights by SGD {i}' for i in range(5)],
        ['x' * 200, 'W' * 60, 'b', 'c'],
    ],
    ids=['many', 'long', 'very long'],
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


def test_few_curves_have_their_legend_within_the_axes():
    assert not curves(['a', 'b', 'c']).legends
    assert curves(['a', 'b', 'c', 'd']).legends
    assert curves(['a', 'b' * 33]).legends
    assert curves(['b' * 33]).axes[0].get_legend() is None


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
    order = [str(number) for number in range(49)]
    every = draw_curves('', '', {name: ([1], [1.0]) for name in order}).axes[0].lines
    looks = {line.get_label(): (line.get_color(), line.get_marker()) for line in every}
    assert set(Counter(looks.values()).values()) == {1}
    some = draw_curves('', '', {name: ([1], [1.0]) for name in ('30', '2', 'new')}, order=order).axes[0].lines
    assert [(line.get_color(), line.get_marker()) for line in some[:2]] == [looks['30'], looks['2']]
    series = draw_points('', '', '', {'7': [(1.0, 1.0, 0.0)]}, order=order).axes[0].containers[0].lines[0]
    assert (series.get_color(), series.get_marker()) == looks['7']
