"""Reliability diagrams: of the answers given with so much confidence, how many are right?"""

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor

from .page import COLORS, INK, new_figure


def reliability(logits: Mapping[str, Tensor], labels: Tensor, bins: int = 10) -> Figure:
    """A panel for each network: its answers in bins of confidence, each bin a triangle that is larger if fuller.

    A triangle below the diagonal points down: there the network is surer than it should be. Above it, and pointing
    up, the network is too modest. The title has the mean of confidence - accuracy, in points.

    Args:
        logits: name -> (N, C), in eval mode.
        labels: (N,).
    """
    figure, panels = new_figure(2.7 * len(logits) + 0.4, 3.3, columns=len(logits))
    for axes, (name, answers) in zip(panels, logits.items(), strict=True):
        confidence, answer = answers.cpu().double().softmax(dim=1).max(dim=1)
        right = (answer == labels.cpu()).double()
        axes.plot([0, 100], [0, 100], "--", color=INK, linewidth=1)
        which = (confidence * bins).long().clamp(max=bins - 1)
        for number in which.unique():
            inside = which == number
            sure, good = 100 * confidence[inside].mean(), 100 * right[inside].mean()
            marker, color = ("^", COLORS[0]) if good >= sure else ("v", COLORS[3])
            axes.plot([sure, sure], [sure, good], color=color, linewidth=1)
            axes.scatter(sure, good, s=20 + 400 * float(inside.double().mean()), marker=marker, color=color, alpha=0.8)
        gap = 100 * float((confidence - right).mean())
        axes.set_title(f"{name}\nconfidence − accuracy {gap:+.1f}", color=INK, fontsize=10)
        axes.set_xlim(0, 104)
        axes.set_ylim(0, 104)
        axes.set_aspect("equal")
        axes.set_xlabel("confidence (%)")
    panels[0].set_ylabel("right answers (%)")
    return figure
