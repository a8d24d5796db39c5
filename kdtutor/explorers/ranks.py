"""The soft rank of one class as its logit moves, and which logits have a say in it."""

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..data import ImageSet
from ..figures import COLORS, INK, quiet
from ..losses import pearson_correlation, soft_rank
from .explorer import WIDE, Explorer, checked_logits

REACH = 3.5  # how far the picture goes, in standard deviations of a row of logits
POINTS = 141


class RanksExplorer(Explorer):
    """Soft ranks of an answer's z-scored logits, and their gradient, from steps to a straight line.

    Args:
        data: the images whose answers can be chosen. Labels may be missing.
        teacher_logits: (N, C), finite, one row for each image of `data`, none of them constant.

    Raises:
        TypeError, ValueError: logits that do not fit the images and classes, are not finite, or have a constant row.
    """

    def __init__(self, data: ImageSet, teacher_logits: Tensor):
        logits = checked_logits("teacher_logits", teacher_logits, data)
        spread = logits.std(dim=1, unbiased=False, keepdim=True)
        if bool((spread <= 1e-9 * logits.abs().amax(dim=1, keepdim=True)).any()):
            raise ValueError("teacher_logits has a row in which all classes are equal: such an answer has no ranks")
        self.data = data
        self.values = (logits - logits.mean(dim=1, keepdim=True)) / spread
        self.image = widgets.IntSlider(0, 0, len(data) - 1, description="image", **WIDE)
        self.moved = widgets.SelectionSlider(
            options=[(name, c) for c, name in enumerate(data.classes)], description="class", **WIDE
        )
        self.shift = widgets.FloatSlider(
            0.0, min=-3, max=3, step=0.1, description="moved by", readout_format=".1f", **WIDE
        )
        self.strength = widgets.FloatLogSlider(
            0.3, base=10, min=-2, max=1, step=0.1, description="strength", readout_format=".3f", **WIDE
        )
        question = (
            "at which strength do all classes first form one block, and what is the correlation with the values then? "
            "Below which strength does your class lose its gradient where it stands?"
        )
        super().__init__("ranks", self._build(), [self.image, self.moved, self.shift, self.strength], question)

    def _build(self) -> Figure:
        figure = Figure(figsize=(8.6, 4.2), layout="constrained", facecolor="none")
        left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
        quiet(left)
        classes = self.data.num_classes
        self._at = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64)
        (self._steps,) = left.plot(self._at, self._at, ":", color=INK, label="true rank")
        (self._curve,) = left.plot(self._at, self._at, color=COLORS[0], label="soft rank")
        (self._here,) = left.plot([0], [1], "o", color=COLORS[3], markersize=9, label="here")
        (self._others,) = left.plot(
            [0] * (classes - 1), [0.4] * (classes - 1), "|", color=INK, markersize=12, label="other logits"
        )
        left.set_xlim(-REACH, REACH)
        left.set_ylim(0, classes + 0.8)
        left.set_yticks(range(1, classes + 1))
        left.set_xlabel("the class's logit, z-scored")
        left.set_ylabel("its rank (largest logit: highest)")
        left.set_title("image", color=INK, fontsize=10)
        self._title = left.title
        self._grid = right.imshow([[0.0] * classes] * classes, cmap="cividis", vmin=-0.5, vmax=1)
        right.set_title("gradient × strength\nstrength", color=INK, fontsize=10)
        self._strength_title = right.title
        right.set_xticks([])
        right.set_yticks(range(classes), self.data.classes, fontsize=8)
        right.tick_params(colors=INK)
        right.set_xlabel("depends on the logit of (same order)", color=INK)
        right.set_ylabel("the soft rank of", color=INK)
        bar = figure.colorbar(self._grid, ax=right, shrink=0.8)
        bar.set_ticks([-0.5, 0, 0.5, 1])
        bar.ax.tick_params(colors=INK)
        bar.outline.set_edgecolor(INK)
        figure.legend(
            *left.get_legend_handles_labels(), loc="outside upper center", ncols=4, labelcolor=INK, frameon=False
        )
        return figure

    def follow(self):
        image, c, strength = self.image.value, self.moved.value, self.strength.value
        values = self.values[image].clone()
        values[c] += self.shift.value
        name = self.data.classes[c]

        line = values.repeat(POINTS, 1)
        line[:, c] = self._at
        self._steps.set_ydata(true_rank(line)[:, c])
        self._curve.set_ydata(soft_rank(line, strength)[:, c])
        ranks, gradient = ranks_and_gradient(values, strength)
        self._here.set_data([float(values[c])], [float(ranks[c])])
        self._others.set_xdata(values[torch.arange(len(values)) != c])
        order = values.argsort(descending=True)
        self._grid.set_data((strength * gradient)[order][:, order].numpy())
        self._grid.axes.yaxis.set_ticklabels([self.data.classes[k] for k in order.tolist()])
        moved = f"{name} moved by {self.shift.value:+.1f}"
        self._title.set_text(f"image {image}, {moved}")
        self._strength_title.set_text(f"gradient × strength\nstrength {strength:.3f}")

        own = float(gradient[c, c])
        true = true_rank(values[None])[0]
        taught = int((gradient.abs().sum(dim=1) > 0).sum())
        numbers = {
            "strength": f"{strength:.3f}",
            f"{name}: true rank": f"{float(true[c]):g}",
            "soft rank": f"{float(ranks[c]):.2f}",
            "gradient": f"{own:.2f}" if own > 0 else "0",
            "classes with a gradient": f"{taught} of {len(values)}",
            "soft ranks correlate with true ranks": f"{float(pearson_correlation(ranks, true)):.3f}",
            "with the values": f"{float(pearson_correlation(ranks, values)):.3f}",
        }
        alt = (
            f"Left, the soft rank of {moved} in the answer to image {image}, at strength {strength:.3f}, as its logit "
            "runs past the others, beside the steps of the true rank. Right, which logits each soft rank depends on, "
            "sorted from the largest logit: blocks along the diagonal, and 0 outside of them."
        )
        return alt, numbers


def ranks_and_gradient(values: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Soft ranks (C,) of one row, and their derivatives (C, C): row k is that of rank k."""
    rows = values.repeat(len(values), 1).requires_grad_()
    ranks = soft_rank(rows, strength)
    (gradient,) = torch.autograd.grad(ranks.diagonal().sum(), rows)
    return ranks[0].detach(), gradient


def true_rank(rows: Tensor) -> Tensor:
    """(N, C) -> (N, C): 1 for the smallest, the average of the places for ties."""
    below = (rows[:, None, :] < rows[:, :, None]).sum(dim=-1)
    ties = (rows[:, None, :] == rows[:, :, None]).sum(dim=-1)
    return below + (ties + 1) / 2
