"""Soft ranks of one answer against its values."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor

from .page import COLORS, INK, LINES, MARKERS, new_figure


def staircase(values: Tensor, ranks: Mapping[str, Tensor]) -> Figure:
    """Ranks against values, a line for each way of ranking: a staircase, a straight line, or in between.

    Args:
        values: (C,). ranks: name -> (C,), of the same classes.
    """
    figure, (axes,) = new_figure(7.5, 4.2)
    order = values.argsort()
    for i, (name, of_name) in enumerate(ranks.items()):
        style = {"color": COLORS[i], "marker": MARKERS[i], "markersize": 6, "label": name}
        axes.plot(values[order], of_name[order], LINES[i % len(LINES)], **style)
    axes.set_yticks(range(1, len(values) + 1))
    axes.set_xlabel("the class's logit, z-scored")
    axes.set_ylabel("its rank (largest logit: highest)")
    axes.legend(labelcolor=INK, frameon=False)
    return figure
