"""Similarity matrices of images, sorted by class so that their blocks can be seen."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .page import INK


def contrast(similarities: Tensor, labels: Tensor) -> float:
    """Mean similarity of two images of one class, divided by that of two images of different classes.

    Equation (2.7). The diagonal, each image with itself, is left out.
    """
    same = labels[:, None] == labels[None, :]
    other_image = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return float(similarities[same & other_image].mean() / similarities[~same].mean())


def color_range(matrices: Sequence[Tensor]) -> tuple[float, float]:
    """One range for the colours of all (B, B) matrices: from percentile 1 to 99 of what lies off their diagonals."""
    values = torch.cat([off_diagonal(matrix).flatten() for matrix in matrices]).double()
    low, high = torch.quantile(values, torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
    return low, max(high, low + 1e-9)


def off_diagonal(matrix: Tensor) -> Tensor:
    """(B, B) -> (B, B - 1): each row without its diagonal entry."""
    kept = ~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
    return matrix[kept].view(len(matrix), -1)


def draw_similarities(axes, matrix: Tensor, scale: tuple[float, float], labels: Tensor, classes: Sequence[str]):
    """A (B, B) matrix, sorted by class already, its diagonal left out. Returns matplotlib's image."""
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=INK, length=0)
    axes.title.set_color(INK)
    middles = [float((labels == c).nonzero().double().mean()) for c in labels.unique().tolist()]
    axes.set_xticks([])
    axes.set_yticks(middles, [classes[c] for c in labels.unique().tolist()])
    shown = axes.imshow(without_diagonal(matrix), cmap="cividis", vmin=scale[0], vmax=scale[1], interpolation="nearest")
    for border in ((labels[1:] != labels[:-1]).nonzero()[:, 0] + 0.5).tolist():
        axes.axhline(border, color=INK, linewidth=0.4)
        axes.axvline(border, color=INK, linewidth=0.4)
    return shown


def without_diagonal(matrix: Tensor):
    """As matplotlib wants it, with a hole where each image meets itself."""
    return matrix.detach().double().cpu().clone().fill_diagonal_(torch.nan).numpy()


def similarity_matrices(matrices: Mapping[str, Tensor], labels: Tensor, classes: Sequence[str]) -> Figure:
    """Matrices of the same images side by side: one order, by class, one scale of colours, each with its contrast.

    Args:
        matrices: name -> (B, B).
        labels: (B,), in any order.
    """
    order = labels.argsort(stable=True).cpu()
    labels = labels.cpu()[order]
    matrices = {name: matrix.detach().cpu()[order][:, order] for name, matrix in matrices.items()}
    scale = color_range(list(matrices.values()))
    figure = Figure(figsize=(3.1 * len(matrices) + 1.6, 3.5), layout="constrained", facecolor="none")
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    for i, (axes, (name, matrix)) in enumerate(zip(panels, matrices.items(), strict=True)):
        shown = draw_similarities(axes, matrix, scale, labels, classes)
        axes.set_title(f"{name}\ncontrast {contrast(matrix, labels):.2f}", fontsize=10)
        if i:
            axes.set_yticklabels([])
    add_scale(figure, shown, panels)
    return figure


def add_scale(figure: Figure, shown, panels, label: str = "similarity") -> None:
    """The bar that says which colour is which number."""
    bar = figure.colorbar(shown, ax=list(panels), shrink=0.8, extend="both", label=label)
    bar.ax.tick_params(which="both", colors=INK)
    bar.ax.yaxis.label.set_color(INK)
    bar.outline.set_edgecolor(INK)
