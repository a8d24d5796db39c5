"""Matrices as coloured squares."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .page import new_figure


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
