"""The affinity framework: its three modules at work, and all of its cells at once."""

import math
from collections.abc import Mapping

import torch
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from ..losses.affinity import AFFINITIES, DISCREPANCIES, NORMALIZATIONS
from .page import COLORS, INK
from .similarity import add_scale, color_range, without_diagonal

Cell = tuple[str, str, str]  # affinity, normalization, discrepancy


def assembly_lines(rows: Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]]) -> Figure:
    """Methods as assembly lines, a row each, without diagonals.

    Args:
        rows: name -> four (B, B) matrices: the teacher's affinities; the same normalised; the student's, normalised;
            and what each pair adds to the discrepancy. Second and third share their colours.
    """
    heads = ("teacher: affinity", "teacher: normalised", "student: normalised", "discrepancy of each pair")
    figure = Figure(figsize=(8.4, 2.05 * len(rows) + 0.2), layout="constrained", facecolor="none")
    panels = figure.subplots(len(rows), 4, squeeze=False)
    for i, (line, (name, matrices)) in enumerate(zip(panels, rows.items(), strict=True)):
        affinity, teacher, student, discrepancy = (matrix.detach().cpu() for matrix in matrices)
        both = color_range([teacher, student])
        scales = (color_range([affinity]), both, both, color_range([discrepancy]))
        for axes, head, matrix, scale in zip(
            line, heads, (affinity, teacher, student, discrepancy), scales, strict=True
        ):
            axes.set_facecolor("none")
            axes.spines[:].set_visible(False)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.imshow(without_diagonal(matrix), cmap="cividis", vmin=scale[0], vmax=scale[1], interpolation="nearest")
            if i == 0:
                axes.set_title(head, color=INK, fontsize=10)
        line[0].set_ylabel(name, color=INK, fontsize=10)
    return figure


def cell_map(
    values: Mapping[Cell, float], label: str, names: Mapping[str, Cell] | None = None, log: bool = True
) -> Figure:
    """One number for each cell of the framework, a panel for each discrepancy. Squares without a value stay empty.

    Args:
        values: (affinity, normalization, discrepancy) -> number.
        label: of the scale of colours.
        names: name -> cell, to be framed and named.
        log: the numbers are positive, their colours on a logarithmic scale, and each square says its power of ten.
            Otherwise each says its number.
    """
    figure = Figure(figsize=(10, 6.6), layout="constrained", facecolor="none")
    panels = figure.subplots(2, 2, sharex=True, sharey=True).flatten()
    norm = (LogNorm if log else Normalize)(min(values.values()), max(values.values()))
    for axes, discrepancy in zip(panels, DISCREPANCIES, strict=True):
        grid = [[values.get((a, n, discrepancy), torch.nan) for n in NORMALIZATIONS] for a in AFFINITIES]
        axes.set_facecolor("none")
        axes.spines[:].set_visible(False)
        axes.tick_params(colors=INK, length=0)
        axes.set_title(discrepancy, color=INK, fontsize=10)
        shown = axes.imshow(grid, cmap="cividis", norm=norm, aspect="auto")
        for row, line in enumerate(grid):
            for column, value in enumerate(line):
                if value == value:
                    ink = "black" if norm(value) > 0.6 else "white"
                    said = f"{round(math.log10(value) if log else value, 1) + 0.0:.1f}".replace("-", "−")
                    axes.text(column, row - 0.12, said, ha="center", va="center", color=ink, fontsize=8)
                else:
                    axes.text(column, row, "–", ha="center", va="center", color=INK, fontsize=8)
        for name, (a, n, d) in (names or {}).items():
            if d == discrepancy:
                column, row = list(NORMALIZATIONS).index(n), list(AFFINITIES).index(a)
                style = {"fill": False, "edgecolor": COLORS[3], "linewidth": 2}
                axes.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, **style))
                ink = "black" if norm(values[a, n, d]) > 0.6 else "white"
                axes.text(column, row + 0.26, name, ha="center", va="center", color=ink, fontsize=7)
        axes.set_xticks(range(len(NORMALIZATIONS)), list(NORMALIZATIONS), rotation=40, ha="right")
        axes.set_yticks(range(len(AFFINITIES)), list(AFFINITIES))
    add_scale(figure, shown, panels, label)
    return figure
