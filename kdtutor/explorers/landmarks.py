"""Landmarks and kernel error: how much of a kernel matrix a few points keep, and which points keep most."""

from collections.abc import Mapping

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..data import ImageSet
from ..figures import COLORS, INK, LINES, MARKERS, quiet
from ..losses import class_centers, nystrom_kernel
from .explorer import WIDE, Explorer
from .similarity import checked_features, checked_labels

KERNELS = ("linear", "rbf")
BEST = "best rank K"


class LandmarkExplorer(Explorer):
    """Landmarks among the images' features, and the error of the kernel matrix that they rebuild.

    Args:
        data: the images, with labels; a thousand at most, since their exact kernel matrices are computed.
        features: (N, D), finite, one row for each image of `data`.
        landmarks: how they were chosen -> number K -> (K, D). Every way has the same numbers.

    Raises:
        TypeError, ValueError: features or landmarks that do not fit, or are not finite.
    """

    def __init__(self, data: ImageSet, features: Tensor, landmarks: Mapping[str, Mapping[int, Tensor]]):
        labels = checked_labels(data)
        self.features = checked_features("features", features, len(data))
        self.landmarks = _checked_landmarks(landmarks, self.features.shape[1])
        counts = list(next(iter(self.landmarks.values())))
        self.errors = {kernel: kernel_errors(self.features, self.landmarks, kernel) for kernel in KERNELS}
        self.chosen = widgets.Dropdown(options=list(self.landmarks), description="landmarks", **WIDE)
        self.count = widgets.SelectionSlider(options=counts, description="number K", **WIDE)
        self.kernel = widgets.Dropdown(options=KERNELS, description="kernel", **WIDE)
        question = (
            "how many images chosen at random do the work of one centre for each class? And which kernel is never "
            "exact, however many landmarks it gets?"
        )
        figure = self._build(labels, data.classes)
        super().__init__("landmarks", figure, [self.chosen, self.count, self.kernel], question)

    def _build(self, labels: Tensor, classes: tuple[str, ...]) -> Figure:
        figure = Figure(figsize=(9.4, 4.2), layout="constrained", facecolor="none")
        left, right = figure.subplots(1, 2)
        for axes in (left, right):
            quiet(axes)
        self._mean = self.features.mean(dim=0)
        self._plane = torch.linalg.svd(self.features - self._mean, full_matrices=False).Vh[:2].T
        left.plot(*self._seen(self.features).T, ".", color=INK, markersize=2, alpha=0.25)
        self._marks = left.plot([], [], "o", color=COLORS[1], markeredgecolor="black", markersize=7)[0]
        centers = self._seen(class_centers(self.features, labels, len(classes)))
        size = self._seen(self.features).max(axis=0) - self._seen(self.features).min(axis=0)
        named = labels.unique().tolist()
        for c, (x, y) in zip(named, _apart(centers[named], 0.2 * size[0], 0.05 * size[1]), strict=True):
            above = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center", "va": "bottom"}
            left.annotate(classes[c], (x, y), **above, color=INK, fontsize=8, fontweight="bold")
        left.set_xticks([])
        left.set_yticks([])
        self._title = left.set_title("0 landmarks among the images", color=INK, fontsize=10)

        self._curves = {}
        for i, name in enumerate((*self.landmarks, BEST)):
            style = {"color": COLORS[i % len(COLORS)], "linestyle": LINES[i % len(LINES)], "marker": MARKERS[i]}
            self._curves[name] = right.plot([], [], **style, markersize=4, label=name)[0]
        self._here = right.plot([], [], "o", color=INK, markersize=13, fillstyle="none", markeredgewidth=2)[0]
        counts = list(next(iter(self.landmarks.values())))
        for name, value in (("K = C", len(labels.unique())), ("K = D", self.features.shape[1])):
            right.axvline(value, color=INK, linewidth=0.8, linestyle=":")
            right.text(value, 1, f" {name}", transform=right.get_xaxis_transform(), color=INK, fontsize=8, va="top")
        right.set_xlim(0, 1.05 * max(*counts, self.features.shape[1]))
        right.set_yscale("log")
        right.set_ylim(self.floor(), 1.5)
        right.set_xlabel("landmarks K")
        right.set_ylabel("relative error of the kernel matrix")
        right.legend(loc="lower left", fontsize=8, labelcolor=INK, frameon=False)
        return figure

    def floor(self) -> float:
        """Below are rounding errors only: the picture ends there."""
        values = [error for curves in self.errors.values() for curve in curves.values() for error in curve.values()]
        return max(1e-5, min(0.1, 0.5 * min(values)))

    def follow(self):
        name, count, kernel = self.chosen.value, self.count.value, self.kernel.value
        points = self._seen(self.landmarks[name][count])
        self._marks.set_data(*points.T)
        self._title.set_text(f"{count} landmarks among the images: {name}")
        errors = self.errors[kernel]
        for curve, values in errors.items():
            shown = {k: max(error, self.floor()) for k, error in values.items()}
            self._curves[curve].set_data(list(shown), list(shown.values()))
        self._here.set_data([count], [max(errors[name][count], self.floor())])

        size = len(self.features)
        numbers = {
            "K": str(count),
            f"error of {name}": _said(errors[name][count]),
            f"of the {BEST}": _said(errors[BEST][count]),
            "numbers kept": f"{size * count + count**2:,} for {size**2:,}",
        }
        alt = (
            f"Left, {size} images' features in a plane, and {count} landmarks among them: {name}. Right, the relative "
            f"error of the {kernel} kernel matrix against the number of landmarks, with a ring at {count}."
        )
        return alt, numbers

    def _seen(self, rows: Tensor):
        return ((rows - self._mean) @ self._plane).numpy()


def kernel_errors(features: Tensor, landmarks: Mapping[str, Mapping[int, Tensor]], kernel: str):
    """|K - cross core cross^T| / |K|, for each set of landmarks, and what no rank-K matrix can beat."""
    if kernel == "linear":
        exact = features @ features.T
    else:
        exact = torch.exp(-torch.cdist(features, features).square() / features.shape[1])
    spectrum = torch.linalg.svdvals(exact)
    size = spectrum.norm()
    errors: dict[str, dict[int, float]] = {}
    for name, by_count in landmarks.items():
        errors[name] = {}
        for count, rows in by_count.items():
            cross, core = nystrom_kernel(features, rows, kernel)
            errors[name][count] = float((exact - cross @ core @ cross.T).norm() / size)
    counts = next(iter(landmarks.values()))
    errors[BEST] = {count: float(spectrum[count:].norm() / size) for count in counts}
    return errors


def _apart(points, width: float, height: float) -> list[tuple[float, float]]:
    """The same places for names of this size, those that would lie on another moved down, from the top one on."""
    placed: dict[int, tuple[float, float]] = {}
    for i in (-points[:, 1]).argsort():
        x, y = points[i]
        for other_x, other_y in placed.values():  # from top to bottom
            if abs(x - other_x) < width and abs(y - other_y) < height:
                y = other_y - height
        placed[i] = x, y
    return [placed[i] for i in range(len(points))]


def _said(error: float) -> str:
    return "below 0.00001" if error < 1e-5 else f"{error:.5f}"


def _checked_landmarks(landmarks: Mapping[str, Mapping[int, Tensor]], width: int) -> dict[str, dict[int, Tensor]]:
    if not landmarks or not all(landmarks.values()):
        raise ValueError('landmarks is empty; wanted name -> number -> points, for instance {"random": {10: points}}')
    counts = sorted(next(iter(landmarks.values())))
    checked = {}
    for name, by_count in landmarks.items():
        if sorted(by_count) != counts:
            raise ValueError(f"landmarks[{name!r}] has the numbers {sorted(by_count)}, and the first has {counts}")
        checked[name] = {k: checked_features(f"landmarks[{name!r}][{k}]", by_count[k], k) for k in counts}
        for k, rows in checked[name].items():
            if rows.shape[1] != width:
                raise ValueError(f"landmarks[{name!r}][{k}] is {rows.shape[1]} wide, and features is {width} wide")
    return checked
