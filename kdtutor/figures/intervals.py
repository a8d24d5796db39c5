"""Estimates with their intervals, and whole grids of them."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from .page import COLORS, INK, LINES, MARKERS, new_figure, quiet


def intervals(panels: Mapping[str, Mapping[str, tuple[float, float]]], xlabel: str) -> Figure:
    """A panel for each name: an estimate and the half-width of its interval for each row, and a line at zero.

    Intervals that leave zero out have a filled marker, the others an empty one.

    Args:
        panels: panel name -> {row name: (estimate, half-width)}; all panels have the first one's rows.
    """
    rows = list(next(iter(panels.values())))
    figure = Figure(figsize=(2.6 * len(panels) + 1.6, 0.3 * len(rows) + 1), layout="constrained", facecolor="none")
    for axes, (name, estimates) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        quiet(axes)
        axes.axvline(0, color=INK, linewidth=0.8)
        for at, row in enumerate(rows):
            estimate, half_width = estimates[row]
            certain = abs(estimate) > half_width
            axes.errorbar(
                estimate, at, xerr=half_width, color=COLORS[0], marker="o", capsize=3,
                markerfacecolor=COLORS[0] if certain else "none",
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(name, color=INK, fontsize=10)
    figure.supxlabel(xlabel, color=INK, fontsize=10)
    return figure


def curve_panels(
    panels: Mapping[str, Mapping[float, tuple[float, float]]],
    xlabel: str,
    ylabel: str,
    marked: Mapping[str, float] = {},
) -> Figure:
    """A small panel of one curve for each name, on one logarithmic x axis, with the spread as a bar on each point.

    What falls far below the best of all leaves its panel: it would take the room that the others need.

    Args:
        panels: panel name -> {x: (y, spread)}.
        marked: panel name -> an x that gets a second marker, for what was chosen.
    """
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.3 * columns, 2.0 * rows), layout="constrained", facecolor="none")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, (name, curve) in zip(grid, panels.items(), strict=False):
        quiet(axes)
        y, spread = zip(*curve.values(), strict=True)
        axes.errorbar(list(curve), y, spread, color=COLORS[0], marker=MARKERS[0], markersize=4, capsize=2)
        if name in marked:
            axes.plot(marked[name], curve[marked[name]][0], "s", markersize=11, markerfacecolor="none", color=COLORS[3])
        axes.set_xscale("log")
        axes.set_title(name, color=INK, fontsize=10)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    best = max(y for curve in panels.values() for y, _ in curve.values())
    grid[0].set_ylim(best - 10, best + 1)
    figure.supxlabel(xlabel, color=INK, fontsize=10)
    figure.supylabel(ylabel, color=INK, fontsize=10)
    return figure


def grids(panels: Mapping[str, Sequence[Sequence[float]]], rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """Coloured grids on one scale, each number written into its cell; NaN leaves a cell empty."""
    values = [value for grid in panels.values() for row in grid for value in row if value == value]
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 20], ordered[-1]  # a few cells that fail must not take all the colours
    figure, axes = new_figure(3.7 * len(panels), 0.42 * len(rows) + 1.3, len(panels))
    for i, (panel, (name, grid)) in enumerate(zip(axes, panels.items(), strict=True)):
        panel.imshow(grid, cmap="cividis", vmin=low, vmax=high, aspect="auto")
        for y, row in enumerate(grid):
            for x, value in enumerate(row):
                if value == value:
                    ink = "black" if value > low + 0.6 * (high - low) else "white"
                    panel.text(x, y, f"{value:.1f}", ha="center", va="center", color=ink, fontsize=7)
        panel.set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=8)
        panel.set_yticks(range(len(rows)), rows if i == 0 else [""] * len(rows), fontsize=8)
        panel.set_title(name, color=INK, fontsize=10)
        panel.spines[:].set_visible(False)
    return figure


def trends(series: Mapping[str, Mapping[str, tuple[float, float]]], ylabel: str) -> Figure:
    """One line for each name over ordered categories, such as teachers of growing strength, with intervals."""
    figure, (axes,) = new_figure(7.5, 4.2)
    for i, (name, points) in enumerate(series.items()):
        at = [
            x + 0.05 * (i - len(series) / 2) for x in range(len(points))
        ]  # side by side, so that bars can be told apart
        y, half_widths = zip(*points.values(), strict=True)
        axes.errorbar(
            at, y, half_widths, color=COLORS[i], linestyle=LINES[i % 4], marker=MARKERS[i], capsize=3, label=name
        )
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xticks(range(len(points)), points)
    axes.set_ylabel(ylabel)
    figure.legend(loc="outside right center", labelcolor=INK, frameon=False)
    return figure
