"""Curves over epochs and settings, and the numbers under them as a table."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from .page import COLORS, INK, LINES, MARKERS, new_figure, quiet


def lines(x, series: Mapping[str, Sequence[float]], xlabel: str, ylabel: str, log: str = "") -> Figure:
    """One curve for each name, named at its end. `log` is "", "x", "y" or "xy": which axes are logarithmic."""
    figure, (axes,) = new_figure(7.5, 3.8)
    for i, values in enumerate(series.values()):
        axes.plot(x, values, LINES[i % len(LINES)], color=COLORS[i], marker=MARKERS[i], markersize=4)
    if "x" in log:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    if "y" in log:
        axes.set_yscale("log")
    for name, values in series.items():
        axes.annotate(name, (x[-1], values[-1]), (6, 0), textcoords="offset points", color=INK, va="center")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return figure


def table(frame, formats: Mapping[str, str]) -> Figure:
    """Some columns of a DataFrame as a picture: a trained network's numbers may be shown, but never compared.

    Args:
        formats: column -> how its values are written, for instance {"top1": "{:.1%}"}. Columns keep this order.
    """
    cells = [[form.format(value) for value in frame[column]] for column, form in formats.items()]
    figure, (axes,) = new_figure(1.15 * len(formats), 0.3 * (len(frame) + 1))
    axes.set_axis_off()
    drawn = axes.table(
        list(zip(*cells, strict=True)),
        colLabels=list(formats),
        bbox=(0, 0, 1, 1),
        edges="horizontal",
        cellLoc="right",
        colLoc="right",
    )
    drawn.auto_set_font_size(False)
    for cell in drawn.get_celld().values():
        cell.set_edgecolor(INK)
        cell.set_facecolor("none")
        cell.get_text().set(color=INK, fontsize=10)
    return figure


def learning_curves(curves) -> Figure:
    """Test accuracy of each method after each epoch: the mean over seeds, and the seeds' range as a band.

    Args:
        curves: a DataFrame with columns method, seed, epoch, top1.
    """
    figure, (axes,) = new_figure(8, 4.5)
    ends = []
    for i, (method, runs) in enumerate(curves.groupby("method", sort=False)):
        by_epoch = runs.groupby("epoch")["top1"]
        mean, low, high = 100 * by_epoch.mean(), 100 * by_epoch.min(), 100 * by_epoch.max()
        color, line = COLORS[i % len(COLORS)], LINES[(i // len(COLORS)) % len(LINES)]
        axes.fill_between(mean.index, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(mean.index, mean, line, color=color, marker=MARKERS[i % len(MARKERS)], markersize=4)
        ends.append((mean.iloc[-1], method, color))
    _name_ends(axes, ends, curves["epoch"].max())
    axes.set_xlabel("epoch")
    axes.set_ylabel("test top-1 (%)")
    return figure


def _name_ends(axes, ends: list[tuple[float, str, str]], x: float) -> None:
    """Write each curve's name at its end, pushed apart where they would touch, and back inside the panel."""
    low, high = axes.get_ylim()
    step = (high - low) / 22
    ends = sorted(ends)
    heights = [value for value, _, _ in ends]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + step)
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], high - step * (len(heights) - 1 - i))
    for height, (value, name, color) in zip(heights, ends, strict=True):
        axes.annotate(
            f"{name} {value:.1f}", (x, value), (1.02, height), xycoords="data", textcoords=axes.get_yaxis_transform(),
            color=color, va="center", fontsize=9, arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5},
        )  # fmt: skip


def method_panels(curves, baseline: str = "ce") -> Figure:
    """A small panel of learning curves for each method, each beside the baseline's dashed line.

    The first third of the training, where all is steep, is cut off below.

    Args:
        curves: as for `learning_curves`.
    """
    grouped = curves.groupby(["method", "epoch"], sort=False)["top1"]
    mean, low, high = (100 * part.unstack("epoch") for part in (grouped.mean(), grouped.min(), grouped.max()))
    methods = [method for method in mean.index if method != baseline] or [baseline]
    columns = min(4, len(methods))
    rows = -(-len(methods) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.1 * rows), layout="constrained", facecolor="none")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, method in zip(panels, methods, strict=False):
        quiet(axes)
        axes.fill_between(mean.columns, low.loc[method], high.loc[method], color=COLORS[0], alpha=0.2, linewidth=0)
        axes.plot(mean.columns, mean.loc[method], color=COLORS[0], marker=MARKERS[0], markersize=3)
        if baseline in mean.index:
            axes.plot(mean.columns, mean.loc[baseline], "--", color=COLORS[1], linewidth=1.2)
        axes.set_title(f"{method} {mean.loc[method].iloc[-1]:.1f} %", color=INK, fontsize=10)
    for axes in panels[len(methods) :]:
        axes.set_axis_off()
    panels[0].set_ylim(bottom=mean.iloc[:, mean.shape[1] // 3].min() - 1)
    figure.supxlabel("epoch", color=INK, fontsize=10)
    dashed = f" (dashed: {baseline})" if baseline in mean.index and methods != [baseline] else ""
    figure.supylabel(f"test top-1 %{dashed}", color=INK, fontsize=10)
    return figure
