"""The value and the gradient of a loss as two logits of three move: where it pulls, how hard, and where not at all."""

from collections.abc import Callable, Mapping

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from .. import losses as kd_losses
from ..figures import COLORS, INK, LINES, quiet
from .explorer import WIDE, Explorer

LOW, HIGH, POINTS, ARROWS = -6.0, 10.0, 65, 13
LABEL = 0  # the class that the label names, for losses that ask

# (N, 3) student logits, (N, 3) teacher logits, temperature -> (N,), a loss for each row
LOGIT_LOSSES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "kd": lambda s, t, T: kd_losses.kd_loss(s, t, T, reduction="none"),
    "kd, standardised": lambda s, t, T: kd_losses.kd_loss(
        kd_losses.standardize_logits(s), kd_losses.standardize_logits(t), T, reduction="none"
    ),
    "dkd": lambda s, t, T: kd_losses.dkd_loss(
        s, t, torch.full((len(s),), LABEL), alpha=1.0, beta=8.0, temperature=T, reduction="none"
    ),
    "dist, per image": lambda s, t, T: 1 - kd_losses.pearson_correlation((s / T).softmax(-1), (t / T).softmax(-1)),
    "pearson": lambda s, t, T: 1 - kd_losses.pearson_correlation(s, t),
    "soft spearman": lambda s, t, T: 1 - kd_losses.spearman_correlation(s, t),
    "squared error of logits": lambda s, t, T: (s - t).square().sum(dim=-1),
    "squared error of softmaxes": lambda s, t, T: (
        T**2 * ((s / T).softmax(-1) - (t / T).softmax(-1)).square().sum(dim=-1)
    ),
}
TEACHERS = {"sure": (6.0, 1.0, 0.0), "in two minds": (3.0, 2.0, 0.0), "unsure": (1.0, 0.5, 0.0)}


class LandscapeExplorer(Explorer):
    """A loss over all answers (a, b, 0) of a student, to one image of three classes.

    Args:
        losses: name -> function of student logits (N, 3), teacher logits (N, 3) and temperature that returns (N,), a
            loss for each row. All of LOGIT_LOSSES when None.

    Raises:
        ValueError: no loss, or one that does not return a finite number for each row.
    """

    def __init__(self, losses: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] | None = None):
        self.losses = LOGIT_LOSSES if losses is None else dict(losses)
        if not self.losses:
            raise ValueError('losses is empty; wanted name -> function, for instance {"kd": LOGIT_LOSSES["kd"]}')
        axis = torch.linspace(LOW, HIGH, POINTS, dtype=torch.float64)
        self._axis = axis
        self._grid = torch.stack([axis.repeat(POINTS), axis.repeat_interleave(POINTS), torch.zeros(POINTS**2)], dim=1)
        for name, loss in self.losses.items():
            _check(name, loss, self._grid)
        self.loss = widgets.Dropdown(options=list(self.losses), description="loss", **WIDE)
        self.teacher = widgets.Dropdown(options=list(TEACHERS), description="teacher", **WIDE)
        self.temperature = widgets.FloatLogSlider(
            1.0, base=2, min=0, max=4, step=0.5, description="temperature", readout_format=".2f", **WIDE
        )
        logit = {"min": LOW, "max": HIGH, "step": 0.5, "readout_format": ".1f", **WIDE}
        self.first = widgets.FloatSlider(-3.0, description="logit 0", **logit)
        self.second = widgets.FloatSlider(5.0, description="logit 1", **logit)
        question = (
            "the teacher names class 0. Where is the student sure of class 1 and yet hardly pulled, and by which "
            "losses? Which have their least value on a whole line?"
        )
        controls = [self.loss, self.teacher, self.temperature, self.first, self.second]
        super().__init__("landscape", self._build(), controls, question)

    def _build(self) -> Figure:
        figure = Figure(figsize=(9.0, 4.6), layout="constrained", facecolor="none")
        left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
        for axes in (left, right):
            quiet(axes)
        blank = torch.zeros(POINTS, POINTS).numpy()
        half = (HIGH - LOW) / (POINTS - 1) / 2
        extent = (LOW - half, HIGH + half, LOW - half, HIGH + half)
        self._shown = left.imshow(blank, origin="lower", extent=extent, cmap="cividis", vmin=0, vmax=1)
        self._arrow_rows = torch.arange(0, POINTS, (POINTS - 1) // (ARROWS - 1))
        at = self._axis[self._arrow_rows]
        zero = torch.zeros(ARROWS, ARROWS).numpy()
        self._arrows = left.quiver(at, at, zero, zero, color="white", scale=18, width=0.004)
        outlined = {"markeredgecolor": "black", "linestyle": "", "clip_on": False}
        self._target = left.plot([], [], "*", color=COLORS[1], markersize=15, label="teacher", **outlined)[0]
        self._student = left.plot([], [], "o", color=COLORS[4], markersize=10, label="student", **outlined)[0]
        marks = [self._target, self._student, Patch(facecolor="none", label="bright: high; arrows: downhill")]
        left.legend(handles=marks, loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, labelcolor=INK, frameon=False,
                    fontsize=8, handletextpad=0.3, columnspacing=1)  # fmt: skip
        left.set_xlabel("student's logit 0")
        left.set_ylabel("student's logit 1; logit 2 is 0")

        self._curves = {}
        for i, name in enumerate(("loss", "length of the gradient")):
            self._curves[name] = right.plot([], [], LINES[i], color=COLORS[i], label=name)[0]
        self._here = right.axvline(0, color=INK, linewidth=1, linestyle=":")
        right.set_xlim(LOW, HIGH)
        right.set_ylim(0, 1.05)
        self._across = right.set_xlabel("student's logit 0, logit 1 at −10.0")
        right.set_ylabel("share of the largest on this line")
        right.legend(loc="lower left", bbox_to_anchor=(0, 1), labelcolor=INK, frameon=False, ncols=2, fontsize=8)
        self._said = figure.suptitle("a loss", color=INK, fontsize=10)
        return figure

    def follow(self):
        name, teacher = self.loss.value, TEACHERS[self.teacher.value]
        T, a, b = self.temperature.value, self.first.value, self.second.value
        values, gradients = self._compute(self._grid)
        top = float(values.max()) or 1.0
        self._shown.set_data((values / top).view(POINTS, POINTS).numpy())
        down = -gradients.view(POINTS, POINTS, 3)[self._arrow_rows][:, self._arrow_rows, :2]
        lengths = down.norm(dim=-1)
        usual = lengths.quantile(0.95).clamp(min=1e-12)  # a single steep point would make all others look flat
        drawn = down * (lengths.clamp(max=usual) / usual).sqrt()[..., None] / lengths.clamp(min=1e-30)[..., None]
        self._arrows.set_UVC(drawn[..., 0].numpy(), drawn[..., 1].numpy())
        self._target.set_data([teacher[0]], [teacher[1]])
        self._student.set_data([a], [b])

        line = torch.stack([self._axis, torch.full((POINTS,), b), torch.zeros(POINTS)], dim=1)
        on_line, slopes = self._compute(line)
        for curve, shown in (("loss", on_line), ("length of the gradient", slopes.norm(dim=1))):
            self._curves[curve].set_data(self._axis.numpy(), (shown / (float(shown.max()) or 1.0)).numpy())
        self._here.set_xdata([a, a])
        self._across.set_text(f"student's logit 0, logit 1 at {b:.1f}".replace("-", "−"))
        self._said.set_text(f"{name}, temperature {T:.2f}, teacher {self.teacher.value}")

        (value,), (gradient,) = self._compute(torch.tensor([[a, b, 0.0]], dtype=torch.float64))
        numbers = {
            "loss": f"{float(value):.3f}",
            "pull on the logits": ", ".join(f"{-part:+.3f}".replace("-", "−") for part in gradient.tolist()),
            "its length": f"{float(gradient.norm()):.3f}",
            "largest anywhere here": f"{float(gradients.norm(dim=1).max()):.3f}",
        }
        alt = (
            f"Left, the loss {name} at temperature {T:.2f} for student's logits ({a:.1f}, {b:.1f}, 0), with arrows "
            f"downhill and a star at the answer of the teacher, who is {self.teacher.value}. Right, loss and length of "
            f"the gradient along logit 0."
        )
        return alt, numbers

    def _compute(self, student: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each row, and its gradient."""
        teacher = torch.tensor(TEACHERS[self.teacher.value], dtype=torch.float64)
        return value_and_gradient(self.losses[self.loss.value], student, teacher, self.temperature.value)


def value_and_gradient(loss: Callable, student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """A loss of each row of (N, 3) student logits, (N,), and its gradient, (N, 3); one teacher's answer to all."""
    student = student.clone().requires_grad_()
    values = loss(student, teacher.expand(len(student), -1), temperature)
    (gradients,) = torch.autograd.grad(values.sum(), student)
    return values.detach(), gradients


def _check(name: str, loss: Callable, rows: Tensor) -> None:
    teacher = torch.tensor(TEACHERS["sure"], dtype=torch.float64)
    values = loss(rows.clone().requires_grad_(), teacher.expand(len(rows), -1), 4.0)
    if not isinstance(values, Tensor) or values.shape != (len(rows),) or not values.isfinite().all():
        got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"losses[{name!r}] answers ({len(rows)}, 3) logits with {got}; wanted {len(rows)} finite numbers, "
            "a loss for each row without reduction"
        )
