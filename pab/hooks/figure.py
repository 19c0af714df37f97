"""The picture of a run: its curves over epochs, and what the pruning left of each layer."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Curve = tuple[Sequence[float], Sequence[float]]
LOG_SCALE = ('flip rate', 'adaptivity rate')
COLOURS = ('#1b6ca8', '#c8553d', '#588b3f', '#6c5b9c')


def draw_run(path: Path, title: str, curves: Mapping[str, Curve], densities: Mapping[str, float]) -> None:
    """Write a PNG: one panel for each curve, sharing the epochs, and a bar for each layer's density.

    Args:
        path: of the PNG; its folder exists.
        title: one line above the picture.
        curves: what is drawn -> (epochs from 1, values); flip rate and adaptivity rate on a logarithmic scale.
        densities: layer -> kept / total, in [0, 1]; drawn only when there are any.
    """
    curves = {name: curve for name, curve in curves.items() if len(curve[0])}
    height = max(4.5, 1.9 * len(curves), 0.19 * len(densities) + 1.2)
    figure = Figure(figsize=(11 if densities else 7, height), layout='constrained')
    figure.suptitle(title)
    left, *right = figure.subfigures(1, 2, width_ratios=(3, 2)).flat if densities else [figure]
    axes = left.subplots(max(1, len(curves)), 1, sharex=True, squeeze=False)[:, 0]
    for axis, colour, (name, (epochs, values)) in zip(axes, COLOURS, curves.items(), strict=False):
        axis.plot(epochs, values, color=colour, marker='o', markersize=3)
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
        if any(name.startswith(scale) for scale in LOG_SCALE) and min(values) > 0:
            axis.set_yscale('log')
    axes[-1].set_xlabel('epoch')
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    if densities:
        _draw_densities(right[0].subplots(), densities)
    FigureCanvasAgg(figure).print_png(str(path))


def _draw_densities(axis, densities: Mapping[str, float]) -> None:
    names = list(densities)
    axis.barh(names, list(densities.values()), color=COLOURS[0])
    for row, value in enumerate(densities.values()):
        axis.text(value + 0.01, row, f'{value:.2f}' if value else 'empty', va='center', fontsize=7)
    axis.set_xlim(0, 1.1)  # room for the number behind a full bar
    axis.set_xlabel('density (kept / total)')
    axis.invert_yaxis()  # the first layer on top
    axis.margins(y=0.01)
    axis.tick_params(axis='y', labelsize=7)
