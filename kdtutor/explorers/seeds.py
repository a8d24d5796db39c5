"""How many seeds are needed to see a difference between two methods?"""

from functools import cache

import ipywidgets as widgets
import numpy as np
from matplotlib.figure import Figure
from scipy import special, stats

from ..figures import COLORS, INK, quiet
from ..losses._checks import check_count, check_fraction, check_non_negative, check_positive
from .explorer import WIDE, Explorer

REPETITIONS = 20
MOST_SEEDS = 20
QUANTILES = 2000


def chance_of_seeing(difference: float, spread: float, seeds: int) -> float:
    """How likely the 95 % interval of so many paired seeds leaves zero out, equation (7.4).

    scipy's noncentral t gives the same, and NaN for large differences of few seeds. This averages normal
    probabilities over what the measured spread may come out as, and is a number everywhere.

    Args:
        difference: the true one, in any unit.
        spread: standard deviation of the paired differences, in the same unit.
        seeds: how many, at least 2.

    Raises:
        TypeError, ValueError: arguments that are no such numbers.
    """
    check_positive("spread", spread)
    check_count("seeds", seeds, minimum=2)
    shift = difference * seeds**0.5 / spread
    limits = _limits(seeds)
    return float(np.mean(special.ndtr(shift - limits) + special.ndtr(-shift - limits)))


@cache
def half_width_per_spread(seeds: int) -> float:
    """The half-width of a 95 % interval over the measured standard deviation, equation (7.2)."""
    return float(stats.t.ppf(0.975, seeds - 1)) / seeds**0.5


@cache
def _limits(seeds: int) -> np.ndarray:
    """Equally likely half-widths, in standard errors of the mean: (QUANTILES,)."""
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    measured = np.sqrt(stats.chi2.ppf(levels, seeds - 1) / (seeds - 1))  # over the true standard deviation
    return half_width_per_spread(seeds) * seeds**0.5 * measured


def paired_spread(spread: float, alike: float) -> float:
    """Standard deviation of the difference of two runs that correlate, equation (7.3).

    Args:
        spread: standard deviation over seeds of each method. alike: correlation of its runs with the other's.
    """
    check_non_negative("spread", spread)
    check_fraction("alike", alike)
    return spread * (2 * (1 - alike)) ** 0.5


class SeedsExplorer(Explorer):
    """Twenty imagined comparisons of two methods, and the chance of seeing their difference against the seeds.

    The imagined seeds are the same normal random numbers at every move, so that only what you move changes. They were
    chosen for being ordinary: at the start, one of the twenty is a false alarm where there is no difference.
    """

    def __init__(self):
        self.draws = np.random.default_rng(5).standard_normal((REPETITIONS, MOST_SEEDS))
        step = {"readout_format": ".1f", **WIDE}
        self.difference = widgets.FloatSlider(0.5, min=0, max=2, step=0.1, description="difference", **step)
        self.spread = widgets.FloatSlider(0.5, min=0.1, max=1.5, step=0.1, description="spread", **step)
        self.alike = widgets.FloatSlider(0.0, min=0, max=0.9, step=0.1, description="alike", **step)
        self.seeds = widgets.IntSlider(5, min=2, max=MOST_SEEDS, description="seeds", **WIDE)
        question = (
            "with the spread at 0.5 and runs that are not alike, how many seeds show a true difference of 0.5 points "
            "in four comparisons of five? And of 0.2? Where few intervals leave zero out, how large do those few say "
            "that the difference is?"
        )
        controls = [self.difference, self.spread, self.alike, self.seeds]
        super().__init__("seeds", self._build(), controls, question)

    def _build(self) -> Figure:
        figure = Figure(figsize=(8.6, 4.0), layout="constrained", facecolor="none")
        left, right = figure.subplots(1, 2)
        for axes in (left, right):
            quiet(axes)
        left.axvline(0, color=INK, linewidth=0.8)
        self._truth = left.axvline(0, color=COLORS[1], linestyle="--", linewidth=1.2)
        self._bars = left.hlines(range(REPETITIONS), 0, 1, color=COLORS[0], linewidth=1.4)
        self._points = left.scatter(np.zeros(REPETITIONS), range(REPETITIONS), s=30, color=COLORS[0], zorder=2)
        left.set_xlim(-3, 4)
        left.set_ylim(REPETITIONS - 0.5, -0.5)
        left.set_yticks([])
        left.set_xlabel("measured difference (points)")
        left.set_ylabel("twenty comparisons")
        self._title = left.set_title("00 of 20 leave zero out", color=INK, fontsize=10)

        self._counts = np.arange(2, MOST_SEEDS + 1)
        self._curve = right.plot(self._counts, np.zeros(len(self._counts)), ".-", color=COLORS[0])[0]
        self._here = right.plot([2], [0], "o", color=COLORS[1], markersize=13, fillstyle="none", markeredgewidth=2)[0]
        right.axhline(80, color=INK, linewidth=0.8, linestyle=":")
        right.text(1.2, 81, "four of five", color=INK, fontsize=8)
        right.set_xticks([2, 5, 10, 15, 20])
        right.set_xlim(1, MOST_SEEDS + 1)
        right.set_ylim(0, 104)
        right.set_xlabel("seeds")
        right.set_ylabel("chance that zero is left out (%)")
        return figure

    def follow(self):
        true, seeds = self.difference.value, self.seeds.value
        spread = paired_spread(self.spread.value, self.alike.value)
        differences = true + spread * self.draws[:, :seeds]  # (7.1), one row a comparison
        means = differences.mean(axis=1)
        half_widths = half_width_per_spread(seeds) * differences.std(axis=1, ddof=1)  # (7.2)
        seen = np.abs(means) > half_widths
        chances = [100 * chance_of_seeing(true, spread, int(n)) for n in self._counts]
        chance, enough = chances[seeds - 2], next((n for n in self._counts if chances[n - 2] >= 80), None)

        self._truth.set_xdata([true, true])
        ends = zip(means - half_widths, means + half_widths, strict=True)
        self._bars.set_segments([[(low, at), (high, at)] for at, (low, high) in enumerate(ends)])
        self._points.set_offsets(np.column_stack([means, np.arange(REPETITIONS)]))
        self._points.set_facecolors([COLORS[0] if certain else "none" for certain in seen])
        self._title.set_text(f"{seen.sum()} of {REPETITIONS} leave zero out")
        self._curve.set_ydata(chances)
        self._here.set_data([seeds], [chance])

        numbers = {
            "spread of a paired difference": f"{spread:.2f} points",
            "chance of seeing it": f"{chance:.0f} %",
            "seeds for four of five": str(enough) if enough else f"more than {MOST_SEEDS}",
            "those that leave zero out say": f"{means[seen].mean():+.2f} on average" if seen.any() else "nothing",
        }
        alt = (
            f"A true difference of {true:.1f} points, a spread of {self.spread.value:.1f}, paired runs that correlate "
            f"by {self.alike.value:.1f}, {seeds} seeds. Left, the intervals of twenty imagined comparisons, "
            f"{seen.sum()} of them filled, which leave zero out. Right, the chance of that against the seeds: "
            f"{chance:.0f} per cent here."
        )
        return alt, numbers
