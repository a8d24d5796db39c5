"""Who resembles whom: the teacher's similarity matrix, and the student's as it trains."""

import math
from collections.abc import Mapping

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from ..data import ImageSet
from ..figures import COLORS
from ..figures.similarity import add_scale, color_range, contrast, draw_similarities, off_diagonal, without_diagonal
from ..losses import sp_loss
from ..losses._checks import check_float_tensor
from ..losses.affinity import inner, row_l2
from .explorer import WIDE, Explorer


class SimilarityExplorer(Explorer):
    """Similarity matrices of a few images, sorted by class: the teacher's, and the student's as it trains.

    Args:
        data: the images, with labels; at most a few hundred.
        teacher_features: (N, ...), finite, one row for each image of `data`.
        student_features: training step -> (N, ...), the student's features after so many steps.

    Raises:
        TypeError, ValueError: features that do not fit the images, or are not finite.
    """

    def __init__(self, data: ImageSet, teacher_features: Tensor, student_features: Mapping[int, Tensor]):
        self.classes = data.classes
        self.labels, self.target, self.features = sorted_by_class(data, teacher_features, student_features)
        self.teacher = row_l2(inner(self.target))
        self.students = {step: row_l2(inner(features)) for step, features in self.features.items()}
        self.step = widgets.SelectionSlider(options=list(self.students), description="step", **WIDE)
        self.marked = widgets.SelectionSlider(
            options=[(self.classes[c], c) for c in self.labels.unique().tolist()], description="class", **WIDE
        )
        question = (
            "what does the student learn to tell apart in the first steps, and which classes does it still mix up "
            "at the end? Does the teacher mix them up too?"
        )
        super().__init__("similarity", self._build(), [self.step, self.marked], question)

    def _build(self) -> Figure:
        figure = Figure(figsize=(8.6, 4.1), layout="constrained", facecolor="none")
        left, right = figure.subplots(1, 2)
        scale = color_range([self.teacher, *self.students.values()])
        draw_similarities(left, self.teacher, scale, self.labels, self.classes)
        left.set_title(f"teacher\ncontrast {_said(contrast(self.teacher, self.labels))}", fontsize=10)
        self._shown = draw_similarities(right, self.teacher, scale, self.labels, self.classes)
        right.set_yticklabels([])
        right.set_title("student\ncontrast", fontsize=10)
        self._title = right.title
        add_scale(figure, self._shown, [left, right])
        style = {"fill": False, "edgecolor": COLORS[3], "linewidth": 2}
        self._frames = [axes.add_patch(Rectangle((-0.5, 0), len(self.labels), 1, **style)) for axes in (left, right)]
        return figure

    def follow(self):
        step, marked = self.step.value, self.marked.value
        student = self.students[step]
        seen = contrast(student, self.labels)
        after = f"after {step} step{'' if step == 1 else 's'}"
        self._shown.set_data(without_diagonal(student))
        self._title.set_text(f"student {after}\ncontrast {_said(seen)}")
        rows = (self.labels == marked).nonzero()[:, 0]
        for frame in self._frames:
            frame.set_y(int(rows[0]) - 0.5)
            frame.set_height(len(rows))

        pair = torch.stack([off_diagonal(student).flatten(), off_diagonal(self.teacher).flatten()])
        numbers = {
            "step": str(step),
            "L_SP × B": f"{len(self.labels) * float(sp_loss(self.features[step], self.target)):.3f}",
            "correlation with the teacher's": _said(float(torch.corrcoef(pair)[0, 1])),
            "student's contrast": _said(seen),
            f"{self.classes[marked]} is most like": f"{self._most_like(self.teacher, marked)} to the teacher, "
            f"{self._most_like(student, marked)} to the student",
        }
        alt = (
            f"Two similarity matrices of {len(self.labels)} images, sorted by class: the teacher's, and the student's "
            f"{after}. A frame marks the rows of {self.classes[marked]}."
        )
        return alt, numbers

    def _most_like(self, matrix: Tensor, marked: int) -> str:
        """The other class whose images are, on average, most similar to those of class `marked`."""
        rows = matrix[self.labels == marked]
        others = [c for c in self.labels.unique().tolist() if c != marked]
        return self.classes[max(others, key=lambda c: float(rows[:, self.labels == c].mean()))]


def _said(value: float) -> str:
    """Dead features have no contrast, and equal ones no correlation."""
    return f"{value:.2f}" if math.isfinite(value) else "undefined"


def sorted_by_class(
    data: ImageSet, teacher_features: Tensor, student_features: Mapping[int, Tensor]
) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """Labels (N,), the teacher's features (N, D) and the student's by step, checked and with the classes in order."""
    labels = checked_labels(data)
    if not student_features:
        raise ValueError("student_features is empty; wanted step -> features, for instance {0: features}")
    order = labels.argsort(stable=True)
    students = {
        step: checked_features(f"student_features[{step}]", features, len(data))[order]
        for step, features in sorted(student_features.items())
    }
    return labels[order], checked_features("teacher_features", teacher_features, len(data))[order], students


def checked_labels(data: ImageSet) -> Tensor:
    if data.labels is None or bool((data.labels < 0).any()):
        raise ValueError(f"data must have a label for every image, to sort {data.name} by class")
    counts = data.labels.bincount()
    if (counts > 0).sum() < 2 or counts.max() < 2:
        raise ValueError(
            f"data has {len(data)} images of {int((counts > 0).sum())} classes; wanted at least two classes, and "
            "two images of one of them, to compare pairs within a class with pairs across"
        )
    return data.labels.cpu()


def checked_features(name: str, features: Tensor, count: int) -> Tensor:
    check_float_tensor(name, features)
    if features.dim() < 2 or len(features) != count:
        raise ValueError(f"{name} has shape {tuple(features.shape)}, wanted ({count}, ...): one row for each image")
    if not features.isfinite().all():
        raise ValueError(f"{name} has values that are not finite; look for NaN or infinity in the network's weights")
    return features.detach().flatten(1).double().cpu()
