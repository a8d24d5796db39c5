"""The affinity framework on real features: choose a cell, and see which pairs of images its loss is made of."""

from collections.abc import Mapping

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from ..data import ImageSet
from ..figures import COLORS, INK, quiet
from ..figures.similarity import add_scale, draw_similarities
from ..losses import AFFINITIES, DISCREPANCIES, NORMALIZATIONS, affinity_loss
from ..losses.affinity import MODULES, check_cell, modules_of, preset_of
from .explorer import WIDE, Explorer
from .similarity import sorted_by_class

PER_PAIR = {
    "mse": lambda s, t: F.mse_loss(s, t, reduction="none"),
    "l1": lambda s, t: F.l1_loss(s, t, reduction="none"),
    "smooth_l1": lambda s, t: F.smooth_l1_loss(s, t, reduction="none"),
    "kl": lambda s, t, eps=1e-7: t * ((t + eps).log() - (s + eps).log()),
}
GROUPS = ("other class", "same class", "with itself")


class AffinityExplorer(Explorer):
    """Any cell of the affinity framework, on a student that trains: each pair's two entries, and its share of the loss.

    Args:
        data: the images, with labels; at most a few hundred.
        teacher_features: (N, ...), finite, one row for each image of `data`.
        student_features: training step -> (N, ...), the student's features after so many steps.

    Raises:
        TypeError, ValueError: features that do not fit the images, or are not finite.
    """

    def __init__(self, data: ImageSet, teacher_features: Tensor, student_features: Mapping[int, Tensor]):
        labels, self.teacher, self.students = sorted_by_class(data, teacher_features, student_features)
        same, itself = labels[:, None] == labels[None, :], torch.eye(len(labels), dtype=torch.bool)
        self.groups = dict(zip(GROUPS, (~same, same & ~itself, itself), strict=True))
        self.affinity = widgets.Dropdown(options=list(AFFINITIES), description="affinity", **WIDE)
        self.normalization = widgets.SelectionSlider(
            options=list(NORMALIZATIONS), value="row_l2", description="normalised", **WIDE
        )
        self.discrepancy = widgets.Dropdown(options=list(DISCREPANCIES), description="discrepancy", **WIDE)
        self.step = widgets.SelectionSlider(options=list(self.students), description="step", **WIDE)
        question = (
            "which modules make the diagonal pay, where every image meets itself? And which leave the points of a "
            "trained student far from the line, although they lie in order?"
        )
        controls = [self.affinity, self.normalization, self.discrepancy, self.step]
        super().__init__("affinity", self._build(labels, data.classes), controls, question)

    def _build(self, labels: Tensor, classes: tuple[str, ...]) -> Figure:
        figure = Figure(figsize=(9.2, 4.4), layout="constrained", facecolor="none")
        left, right = figure.subplots(1, 2)
        quiet(left)
        left.set_xticks([])
        left.set_yticks([])
        left.set_xlim(-0.04, 1.04)
        left.set_ylim(-0.04, 1.04)
        left.plot([0, 1], [0, 1], "--", color=INK, linewidth=1)
        self._points = {}
        for i, (name, marker, size) in enumerate(zip(GROUPS, (".", "x", "o"), (2, 3, 4), strict=True)):
            style = {"color": COLORS[i], "marker": marker, "markersize": size, "linestyle": "", "label": name}
            self._points[name] = left.plot([], [], **style)[0]
        left.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, labelcolor=INK, frameon=False, markerscale=2,
            handletextpad=0.1, columnspacing=1,
        )  # fmt: skip
        self._across = left.set_xlabel("teacher's entries, from −0.000 to −0.000")
        self._up = left.set_ylabel("student's entries")
        blank = torch.zeros(len(labels), len(labels))
        self._shown = draw_similarities(right, blank, (0, 4), labels, classes)
        right.set_title("which pairs the loss is made of", fontsize=10)
        self._refused = right.text(
            0.5, 0.5, "", transform=right.transAxes, ha="center", va="center", color=INK, fontsize=10
        )
        add_scale(figure, self._shown, [right], "times the mean pair's share")
        return figure

    def follow(self):
        cell = {name: getattr(self, name).value for name in MODULES}
        step = self.step.value
        student, teacher = (self._matrix(features, cell) for features in (self.students[step], self.teacher))
        low = min(float(student.min()), float(teacher.min()))
        span = max(float(student.max()), float(teacher.max())) - low or 1.0
        for name, points in self._points.items():
            where = self.groups[name]
            points.set_data(((teacher[where] - low) / span).numpy(), ((student[where] - low) / span).numpy())
        self._across.set_text(f"teacher's entries, from {low:.3g} to {low + span:.3g}".replace("-", "−"))

        called = f", which is {preset_of(cell)}" if preset_of(cell) else ""
        numbers = {"cell": ", ".join(cell.values()) + called, "step": str(step)}
        numbers |= self._compare(student, teacher, cell, step)
        alt = (
            f"Teacher's against student's entries for the pairs of {len(student)} images, after {step} step"
            f"{'' if step == 1 else 's'}, and each pair's share of the loss. The cell: {', '.join(cell.values())}."
        )
        return alt, numbers

    def _matrix(self, features: Tensor, cell: dict[str, str]) -> Tensor:
        relate, normalize, _ = modules_of(**cell, options={})
        return normalize(relate(features))

    def _compare(self, student: Tensor, teacher: Tensor, cell: dict[str, str], step: int) -> dict[str, str]:
        """Fill the right panel; the numbers that say the same."""
        try:
            check_cell(**cell)
        except ValueError as error:
            self._shown.set_data(torch.full_like(student, torch.nan).numpy())
            self._refused.set_text("refused: kl compares\nprobability distributions")
            return {"refused": str(error)}
        self._refused.set_text("")
        parts = PER_PAIR[cell["discrepancy"]](student, teacher).abs()
        shares = parts / (parts.mean() or 1.0)
        self._shown.set_data(shares.numpy())
        features = self.students[step].clone().requires_grad_()
        loss = affinity_loss(features, self.teacher, **cell)
        (gradient,) = torch.autograd.grad(loss, features)
        numbers = {
            "loss": f"{float(loss.detach()):.3g}",
            "pull": f"{float(features.detach().norm() * gradient.norm()):.3g}",
        }
        for name, where in self.groups.items():
            numbers[f"share of pairs {name}"] = f"{100 * float(shares[where].sum()) / shares.numel():.0f} %"
        return numbers
