"""Several values of each of many names, as dots on one line a name."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from .page import COLORS, INK, MARKERS, new_figure


def dots(names: Sequence[str], series: Mapping[str, Sequence[float]], xlabel: str) -> Figure:
    """A row for each name, in it a dot for each series, told apart by shape and colour; a line joins them.

    Args:
        series: its name -> a value for each of `names`.
    """
    figure, (axes,) = new_figure(7.5, 1.2 + 0.32 * len(names))
    rows = range(len(names))
    values = list(zip(*series.values(), strict=True))
    axes.hlines(rows, [min(row) for row in values], [max(row) for row in values], color=INK, linewidth=0.8, zorder=1)
    for i, (name, of_names) in enumerate(series.items()):
        style = {"color": COLORS[i], "marker": MARKERS[i], "s": 45, "zorder": 2, "clip_on": False}
        axes.scatter(of_names, rows, label=name, **style)
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    figure.legend(loc="outside upper center", ncols=2, labelcolor=INK, frameon=False)
    return figure
