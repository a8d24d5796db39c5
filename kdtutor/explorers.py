"""Explorers: pictures in a notebook that follow sliders, by mouse or keyboard.

    TemperatureExplorer(data, teacher_logits)      as the last line of a cell

Each is a column of controls, a picture, its main numbers as text, and a question to answer with it.
Where widgets cannot run (on the web, or before a notebook is run) a still picture stands in its place.
"""

import base64
import html
import math

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .data import ImageSet
from .figures import COLORS, DPI, HATCHES, INK, draw_image, pixels, png_bytes, quiet
from .losses import kd_loss
from .losses._checks import check_float_tensor


class Explorer(widgets.VBox):
    """What all explorers share. One of your own builds a figure once and writes `follow`.

    Args:
        name: its CSS class is kdtutor-<name>.
        figure: never rebuilt, since moving its artists is several times as fast.
        controls: widgets with a `value`; the figure follows each of them.
        question: what the reader should find out.
    """

    def __init__(self, name: str, figure: Figure, controls: list[widgets.Widget], question: str):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the layout is settled now; settling it anew would double each draw
        self.figure = figure
        self.picture = widgets.HTML()
        self.numbers = widgets.HTML()
        asked = widgets.HTML(f"<p><b>Find out:</b> {html.escape(question)}</p>")
        super().__init__([*controls, self.picture, self.numbers, asked])
        self.add_class("kdtutor-explorer")
        self.add_class(f"kdtutor-{name}")
        for control in controls:
            control.observe(self._redraw, "value")
        self._redraw()

    def follow(self) -> tuple[str, dict[str, str]]:
        """Move the artists to where the controls stand.

        Returns:
            What the picture shows, in words and without a network's numbers, for readers who cannot see it;
            and the main numbers, name -> value.
        """
        raise NotImplementedError(f"{type(self).__name__} must write follow()")

    def _redraw(self, change=None) -> None:
        self.alt, numbers = self.follow()
        self.png = base64.b64encode(png_bytes(self.figure)).decode()
        width = round(self.figure.get_figwidth() * DPI)
        self.picture.value = (
            f'<img alt="{html.escape(self.alt)}" src="data:image/png;base64,{self.png}" '
            f'style="width: {width}px; max-width: 100%">'
        )
        said = " &nbsp;·&nbsp; ".join(
            f"{html.escape(name)} <b>{html.escape(value)}</b>" for name, value in numbers.items()
        )
        self.numbers.value = f'<p aria-live="polite">{said}</p>'

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle |= {"text/plain": self.alt, "image/png": self.png}
        return bundle, {"image/png": {"alt": self.alt}}


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
        self.logits = {"teacher": _checked("teacher_logits", teacher_logits, data)}
        if student_logits is not None:
            self.logits["student"] = _checked("student_logits", student_logits, data)
        wide = {"style": {"description_width": "90px"}, "layout": widgets.Layout(width="460px", max_width="100%")}
        self.image = widgets.IntSlider(0, 0, len(data) - 1, description="image", **wide)
        self.temperature = widgets.FloatLogSlider(
            1.0, base=2, min=-2, max=6, step=0.125, description="temperature", readout_format=".2f", **wide
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


def _checked(name: str, logits: Tensor, data: ImageSet) -> Tensor:
    check_float_tensor(name, logits)
    if logits.shape != (len(data), data.num_classes):
        raise ValueError(
            f"{name} has shape {tuple(logits.shape)}, wanted ({len(data)}, {data.num_classes}): "
            f"one row for each image of {data.name}, one column for each class"
        )
    if not logits.isfinite().all():
        raise ValueError(f"{name} has values that are not finite; look for NaN or infinity in the network's weights")
    return logits.detach().double().cpu()
