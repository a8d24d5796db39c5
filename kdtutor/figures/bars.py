"""Bars side by side."""

import math
from collections.abc import Mapping

from matplotlib.figure import Figure

from .page import COLORS, HATCHES, INK, new_figure


def bars(series: Mapping[str, Mapping[str, float]], ylabel: str) -> Figure:
    """Grouped bars, each with its number above it: series name -> {group name: value}.

    Every group stands where the first series that names it has it.
    """
    groups = list(dict.fromkeys(group for values in series.values() for group in values))
    figure, (axes,) = new_figure(1.5 + 1.1 * len(groups) * max(1, len(series) - 1), 3.6)
    width = 0.8 / len(series)
    largest = max((abs(value) for values in series.values() for value in values.values()), default=0.0)
    decimals = max(0, 2 - math.floor(math.log10(largest))) if largest else 0  # three digits for the largest
    for i, (name, values) in enumerate(series.items()):
        at = [groups.index(group) - 0.4 + (i + 0.5) * width for group in values]
        style = {"color": COLORS[i], "hatch": HATCHES[i % len(HATCHES)], "edgecolor": INK, "label": name}
        drawn = axes.bar(at, list(values.values()), width, **style)
        axes.bar_label(drawn, fmt=f"{{:.{decimals}f}}", color=INK, fontsize=9, padding=2)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel(ylabel)
    if len(series) > 1:
        figure.legend(loc="outside upper center", ncols=len(series), labelcolor=INK, frameon=False)
    else:
        axes.set_title(*series, color=INK, fontsize=10)
    return figure
