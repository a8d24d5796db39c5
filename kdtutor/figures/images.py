"""Images, alone and above what networks answer to them."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from .page import COLORS, HATCHES, INK, quiet


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
