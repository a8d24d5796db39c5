"""The line between two images, and what networks answer along it."""

import math

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..data import ImageSet, normalize
from ..figures import COLORS, INK, MARKERS, draw_image, quiet
from ..losses import interpolated_logits, kd_loss
from .explorer import WIDE, Explorer

TARGETS = {"asked on the virtual image": "virtual", "its two clean answers, blended": "interpolated"}
STYLES = {"teacher": "-", "student": "--"}


def answers_on_lines(network: nn.Module, data: ImageSet, steps: int = 20) -> Tensor:
    """Logits (steps + 1, N, N, C) of lam * image i + (1 - lam) * image j, for lam = 0, 1 / steps, ..., 1."""
    images = normalize(data.images, data.mean, data.std)
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    answers = []
    with torch.inference_mode():
        for k in range(steps + 1):
            blends = k / steps * images[:, None] + (1 - k / steps) * images[None]
            batch = blends.flatten(0, 1).to(device).contiguous(memory_format=torch.channels_last)
            answers.append(network(batch).double().cpu())
    network.train(was_training)
    return torch.stack(answers).unflatten(1, (len(data), len(data)))


class MixupExplorer(Explorer):
    """Any virtual image between two images, and both networks' answers along the whole line.

    Args:
        data: the images to choose from, with labels; at most about twelve, since every pair is asked in advance.
        teacher, student: networks for images normalised as `data` says.
        steps: of lam, from 0 to 1.

    Raises:
        ValueError: images without labels, or too many of them; answers that do not fit the classes or are not finite.
    """

    def __init__(self, data: ImageSet, teacher: nn.Module, student: nn.Module, steps: int = 20):
        if data.labels is None or bool((data.labels < 0).any()):
            raise ValueError(f"data must have a label for every image, since mixup blends labels too ({data.name})")
        if not 2 <= len(data) <= 20:
            raise ValueError(f"data has {len(data)} images, wanted 2 to 20: every pair is asked about in advance")
        if steps < 2:
            raise ValueError(f"steps is {steps}, wanted at least 2")
        self.data, self.steps = data, steps
        self.images = data.images.cpu().float()
        networks = {"teacher": teacher, "student": student}
        self.logits = {who: checked_answers(who, network, data, steps) for who, network in networks.items()}
        last = len(data) - 1
        self.first = widgets.IntSlider(0, 0, last, description="image", **WIDE)
        self.second = widgets.IntSlider(min(1, last), 0, last, description="partner", **WIDE)
        self.lam = widgets.FloatSlider(
            0.5, min=0, max=1, step=1 / steps, description="lam", readout_format=".2f", **WIDE
        )
        self.temperature = widgets.FloatLogSlider(
            1.0, base=2, min=0, max=4, step=0.25, description="temperature", readout_format=".2f", **WIDE
        )
        self.target = widgets.Dropdown(options=TARGETS, description="teacher", **WIDE)
        controls = [self.first, self.second, self.lam, self.temperature, self.target]
        question = (
            "on which lines does the teacher find a third class, one that is in neither image? Does the student find "
            "it too? And what becomes of it when the two clean answers are blended instead?"
        )
        super().__init__("mixup", self._build(), controls, question)

    def _build(self) -> Figure:
        figure = Figure(figsize=(8.2, 3.9), layout="constrained", facecolor="none")
        left, right = figure.subplots(1, 2, width_ratios=(1, 2.1))
        self._shown = draw_image(left, self.data.images[0], "virtual image")
        quiet(right)
        self._at = [k / self.steps for k in range(self.steps + 1)]
        self._curves = {
            (who, role): right.plot(
                self._at, self._at, line, color=COLORS[role], marker=MARKERS[role], markevery=5, markersize=5
            )[0]
            for who, line in STYLES.items()
            for role in range(3)
        }
        (self._here,) = right.plot([0, 0], [-5, 105], ":", color=INK)
        right.set_xlim(-0.02, 1.02)
        right.set_ylim(-3, 103)
        right.set_xlabel("lam: share of the image")
        right.set_ylabel("probability (%)")
        names = [right.plot([], [], color=COLORS[role], marker=MARKERS[role])[0] for role in range(3)]
        longest = max(self.data.classes, key=len)
        networks = [right.plot([], [], line, color=INK)[0] for line in STYLES.values()]
        self._legend = figure.legend(
            [*names, *networks], [f"{longest} (third)"] * 3 + list(STYLES), loc="outside upper center", ncols=5,
            labelcolor=INK, frameon=False, fontsize=9,
        )  # fmt: skip
        return figure

    def follow(self):
        i, j, temperature = self.first.value, self.second.value, self.temperature.value
        k = round(self.lam.value * self.steps)
        lam = k / self.steps
        teacher, student = self._teacher(i, j), self.logits["student"][:, i, j]
        answers = {"teacher": teacher, "student": student}
        own, partner = int(self.data.labels[i]), int(self.data.labels[j])
        shares = {who: (logits / temperature).softmax(dim=1) for who, logits in answers.items()}
        third = _third(shares["teacher"], own, partner)
        roles = (own, partner, third)
        for (who, role), curve in self._curves.items():
            curve.set_ydata((100 * shares[who][:, roles[role]]).tolist())
            curve.set_visible(not (role == 1 and own == partner))
        self._here.set_xdata([lam, lam])
        blend = lam * self.images[i] + (1 - lam) * self.images[j]
        self._shown.set_data(blend.permute(1, 2, 0).squeeze(-1).div(255 if len(blend) == 3 else 1).numpy())
        names = [self.data.classes[c] for c in roles]
        for text, name in zip(self._legend.get_texts(), (names[0], names[1], f"{names[2]} (third)"), strict=False):
            text.set_text(name)

        loss = float(kd_loss(student[k : k + 1], teacher[k : k + 1], temperature))
        numbers = {"lam": f"{lam:.2f}", "T": f"{temperature:.2f}"}
        for who in answers:
            said = ", ".join(
                f"{name} {100 * float(shares[who][k, c]):.0f} %"
                for name, c in dict(zip(names, roles, strict=True)).items()
            )
            numbers[who] = said
        numbers["KL × T²"] = f"{loss:.3f}"
        asked = "asked on the virtual image" if self.target.value == "virtual" else "two clean answers blended"
        alt = (
            f"A virtual image, {lam:.2f} times image {i} ({names[0]}) and {1 - lam:.2f} times image {j} ({names[1]}). "
            f"Beside it the probabilities at temperature {temperature:.2f} that teacher ({asked}) and student give "
            "to the two classes, and to the teacher's favourite among the others, along the whole line."
        )
        return alt, numbers

    def _teacher(self, i: int, j: int) -> Tensor:
        """The teacher's target along the line, (steps + 1, C)."""
        line = self.logits["teacher"][:, i, j]
        if self.target.value == "virtual":
            return line
        return torch.cat([interpolated_logits(line[-1:], line[:1], lam, self.temperature.value) for lam in self._at])


def _third(shares: Tensor, own: int, partner: int) -> int:
    """The class of neither image to which the most probability goes along the line."""
    total = shares.sum(dim=0)
    total[[own, partner]] = -math.inf
    return int(total.argmax())


def checked_answers(who: str, network: nn.Module, data: ImageSet, steps: int) -> Tensor:
    logits = answers_on_lines(network, data, steps)
    if logits.shape[-1] != data.num_classes:
        raise ValueError(f"{who} has {logits.shape[-1]} classes, data {data.num_classes}: {', '.join(data.classes)}")
    if data.num_classes < 3:
        raise ValueError(f"data has {data.num_classes} classes, wanted at least 3: the third class is what to look for")
    if not logits.isfinite().all():
        raise ValueError(f"{who} answers with values that are not finite; look for NaN or infinity in its weights")
    return logits
