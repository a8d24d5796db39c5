"""Figures of the course. Each function returns a matplotlib Figure, which `show` puts under a notebook's cell.

Colours come from Okabe and Ito's palette, which colour-blind readers can tell apart, and never carry
a meaning alone: markers, line styles or words go with them. Inks are mid-grey on a transparent
ground, readable on light and dark pages.
"""

import base64
import io
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C8C00", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
HATCHES = ("", "//", "..")
INK = "#7a7a7a"
DPI = 100  # of the page; `show` draws twice as fine, for screens that can show it


def show(figure: Figure, alt: str) -> None:
    """Put a figure under the notebook's cell, as a PNG with its description in words.

    Args:
        alt: what a reader who cannot see the figure should know of it. It is stored beside the picture, as text, so
            it names what is drawn and not a trained network's numbers, which move a little from machine to machine.
    """
    from IPython.display import display

    png = base64.b64encode(png_bytes(figure, dpi=2 * DPI, compress_level=9)).decode()
    width = round(figure.get_figwidth() * DPI)
    display({"image/png": png, "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt, "width": width}})


def png_bytes(figure: Figure, dpi: int = DPI, compress_level: int = 1) -> bytes:
    """The figure as a PNG: quickly, as explorers want it, unless asked to pack it tighter."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, pil_kwargs={"compress_level": compress_level})
    return buffer.getvalue()


def new_figure(width: float = 7.0, height: float = 4.0, columns: int = 1):
    """A figure with `columns` panels side by side, in the course's colours: (figure, list of axes)."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    panels = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in panels:
        quiet(axes)
    return figure, panels


def quiet(axes) -> None:
    """Grey ink, no box, a transparent ground."""
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.tick_params(colors=INK)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color(INK)


def draw_image(axes, image: Tensor, title: str = ""):
    """One (C, H, W) uint8 image, grey or RGB, without axes. Returns matplotlib's image, to be given other data."""
    axes.set_axis_off()
    axes.set_title(title, color=INK, fontsize=10)
    return axes.imshow(pixels(image), cmap="gray", vmin=0, vmax=255)


def pixels(image: Tensor):
    """(C, H, W) as matplotlib wants it: (H, W) for a grey image, else (H, W, 3)."""
    return image.cpu().permute(1, 2, 0).squeeze(-1).numpy()


def image_grid(images: Tensor, titles: Sequence[str], columns: int = 10) -> Figure:
    """Images (N, C, H, W) in rows of `columns`, each with its title above."""
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(0.95 * columns, 1.15 * rows), layout="constrained", facecolor="none")
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        draw_image(figure.add_subplot(rows, columns, i + 1), image, title)
    return figure


def answers(
    images: Tensor, titles: Sequence[str], probabilities: Mapping[str, Tensor], classes: Sequence[str]
) -> Figure:
    """Each image above the probabilities that were given to its classes.

    Args:
        images: (N, C, H, W), shown side by side with `titles`.
        probabilities: name, such as "T = 4" -> (N, classes); at most three.
    """
    figure = Figure(figsize=(10, 4.8), layout="constrained", facecolor="none")
    grid = figure.subplots(2, len(images), height_ratios=(1, 2), squeeze=False)
    height = 0.8 / len(probabilities)
    for column, (image, title) in enumerate(zip(images, titles, strict=True)):
        draw_image(grid[0, column], image, title)
        axes = grid[1, column]
        quiet(axes)
        for i, (name, values) in enumerate(probabilities.items()):
            at = [row - 0.4 + (i + 0.5) * height for row in range(len(classes))]
            axes.barh(
                at, 100 * values[column].cpu(), height, color=COLORS[i], hatch=HATCHES[i], edgecolor=INK, label=name
            )
        axes.set_yticks(range(len(classes)), classes if column == 0 else [""] * len(classes))
        axes.set_ylim(len(classes) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel("probability (%)")
    figure.legend(
        *grid[1, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, labelcolor=INK, frameon=False
    )
    return figure


def class_matrix(values: Tensor, classes: Sequence[str], xlabel: str, ylabel: str) -> Figure:
    """A (C, C) matrix in per cent with its diagonal left out, each number written into its cell."""
    shown = 100 * values.cpu().double()
    shown = shown.masked_fill(torch.eye(len(shown), dtype=torch.bool), torch.nan)
    figure, (axes,) = new_figure(6.4, 5.8)
    top = float(shown.nan_to_num(0).max())
    axes.imshow(shown.numpy(), cmap="cividis", vmin=0, vmax=top)
    for row in range(len(shown)):
        for column in range(len(shown)):
            if row != column:
                value = float(shown[row, column])
                ink = "black" if value > 0.6 * top else "white"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=9)
    axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.spines[:].set_visible(False)
    return figure


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
