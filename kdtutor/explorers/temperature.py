"""Temperature, and what it does to a network's answer."""

import math

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..data import ImageSet
from ..figures import COLORS, HATCHES, INK, draw_image, pixels, quiet
from ..losses import kd_loss
from .explorer import WIDE, Explorer, checked_logits


class TemperatureExplorer(Explorer):
    """What temperature does to a teacher's answer, and to a student's beside it, on an image of your choice.

    Args:
        data: the images to choose from, at most a few dozen. Labels may be missing.
        teacher_logits: (N, C), finite, one row for each image of `data`, one column for each of its classes.
        student_logits: (N, C), or None to look at the teacher alone.

    Raises:
        TypeError, ValueError: logits that do not fit the images and classes, or are not finite.
    """

    def __init__(self, data: ImageSet, teacher_logits: Tensor, student_logits: Tensor | None = None):
        self.data = data
        self.logits = {"teacher": checked_logits("teacher_logits", teacher_logits, data)}
        if student_logits is not None:
            self.logits["student"] = checked_logits("student_logits", student_logits, data)
        self.image = widgets.IntSlider(0, 0, len(data) - 1, description="image", **WIDE)
        self.temperature = widgets.FloatLogSlider(
            1.0, base=2, min=-2, max=6, step=0.125, description="temperature", readout_format=".2f", **WIDE
        )
        question = "at which temperature can you first read which wrong classes the teacher finds plausible?"
        if student_logits is not None:
            question += " Does the loss, times T², grow or shrink from there on, and the gradient?"
        super().__init__("temperature", self._build(), [self.image, self.temperature], question)

    def _build(self) -> Figure:
        figure = Figure(figsize=(7.2, 3 + 0.7 * len(self.logits)), layout="constrained", facecolor="none")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.9))
        self._shown = draw_image(left, self.data.images[0])
        self._title = left.title
        quiet(right)
        classes = self.data.classes
        height = 0.8 / len(self.logits)
        self._bars, self._shares = {}, {}
        for i, who in enumerate(self.logits):
            at = [row - 0.4 + (i + 0.5) * height for row in range(len(classes))]
            style = {"color": COLORS[i], "hatch": HATCHES[i], "edgecolor": INK, "linewidth": 0.5, "label": who}
            self._bars[who] = right.barh(at, [0] * len(classes), height, **style)
            self._shares[who] = [right.text(0, y, "", color=INK, fontsize=8, va="center") for y in at]
        right.set_yticks(range(len(classes)), classes)
        right.set_ylim(len(classes) - 0.5, -0.5)
        right.set_xlim(0, 112)  # room for a number at the end of a bar of 100 %
        right.set_xticks(range(0, 101, 20))
        self._axis = right.xaxis.label
        right.set_xlabel("probability (%)")
        if len(self.logits) > 1:
            right.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, labelcolor=INK, frameon=False)
        return figure

    def follow(self):
        number, temperature = self.image.value, self.temperature.value
        label = -1 if self.data.labels is None else int(self.data.labels[number])
        name = self.data.classes[label] if label >= 0 else "without label"
        self._shown.set_data(pixels(self.data.images[number]))
        self._title.set_text(f"image {number}: {name}")
        self._axis.set_text(f"probability at temperature {temperature:.2f} (%)")

        numbers = {"T": f"{temperature:.2f}"}
        rows = {who: logits[number : number + 1] for who, logits in self.logits.items()}
        for who, logits in rows.items():
            log_p = (logits / temperature).log_softmax(dim=1)[0]
            p = log_p.exp()
            for bar, share, value in zip(self._bars[who], self._shares[who], p.tolist(), strict=True):
                bar.set_width(100 * value)
                share.set_x(100 * value + 1)
                share.set_text(f"{100 * value:.1f}")
            top = int(p.argmax())
            entropy = -float((p * log_p).sum()) / math.log(2)
            numbers[who] = f"{self.data.classes[top]} {100 * float(p[top]):.1f} %, entropy {entropy:.2f} bits"
        if "student" in rows:
            student = rows["student"].clone().requires_grad_()
            loss = kd_loss(student, rows["teacher"], temperature)
            (gradient,) = torch.autograd.grad(loss, student)
            numbers["KL × T²"] = f"{float(loss.detach()):.3f} nats"
            numbers["gradient's length"] = f"{float(gradient.norm()):.3f}"

        whose = " and ".join(f"the {who}'s" for who in rows)
        return (
            f"Image {number}, {name}, beside bars: {whose} probability of each class at temperature {temperature:.2f}.",
            numbers,
        )
