"""Checks of notebook 07: what an interval says, the paired interval, a report that flatters, false alarms, a study."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from scipy import stats
from torch import Tensor

from .engine import Result, by_choice, by_comparison, by_number, by_rubric
from .points import exercise

# --- 1. Recall ---


@exercise(1, "recall: what an interval says", points=1)
def check_verdict(answer: str) -> Result:
    """Method A beats B by 0.3 ± 0.5 points, 95 % interval over five seeds. Which sentence is right?

    a: A and B are equally good. b: A is better, since 0.3 is above 0. c: A is better with 95 % probability.
    d: these five seeds fit a difference of -0.1 as well as one of +0.7.
    """
    return by_choice(
        answer,
        "d",
        {
            "a": "The interval holds zero, and 0.7 too. Not seen is not the same as not there.",
            "b": "Repeat it with five other seeds: how often might the sign be the other one?",
            "c": "95 % is how often such intervals hold the true difference. It is not A's chance of being better.",
        },
    )


# --- 2. The interval from scratch ---


def paired_interval(values: Tensor, baseline: Tensor) -> tuple[float, float]:
    differences = values - baseline
    return float(differences.mean()), _half_width(differences)


def _half_width(differences: Tensor, quantile: float = 0.975, normal: bool = False, correction: int = 1) -> float:
    n = len(differences)
    factor = stats.norm.ppf(quantile) if normal else stats.t.ppf(quantile, n - 1)
    return float(factor * differences.std(correction=correction) / n**0.5)


def _wrong(**changed) -> Callable:
    return lambda values, baseline: (float((values - baseline).mean()), _half_width(values - baseline, **changed))


def _other_freedom(values: Tensor, baseline: Tensor):
    n = len(values)
    spread = (values - baseline).std()
    return float((values - baseline).mean()), float(stats.t.ppf(0.975, n) * spread / n**0.5)


def _without_root(values: Tensor, baseline: Tensor):
    mean, half_width = paired_interval(values, baseline)
    return mean, half_width * len(values) ** 0.5


def _unpaired(values: Tensor, baseline: Tensor):
    n = len(values)
    spread = float(values.var() + baseline.var()) ** 0.5
    return float((values - baseline).mean()), stats.t.ppf(0.975, n - 1) * spread / n**0.5


def _pooled(values: Tensor, baseline: Tensor):
    mean, half_width = _unpaired(values, baseline)
    n = len(values)
    return mean, half_width * stats.t.ppf(0.975, 2 * n - 2) / stats.t.ppf(0.975, n - 1)


def _turned_round(values: Tensor, baseline: Tensor):
    mean, half_width = paired_interval(values, baseline)
    return -mean, half_width


def _ends(values: Tensor, baseline: Tensor):
    mean, half_width = paired_interval(values, baseline)
    return mean - half_width, mean + half_width


INTERVAL_MISTAKES = [
    (_wrong(normal=True), "1.96 is for a spread that is known. Yours is measured on a few seeds: Student's t, (7.2)."),
    (
        _wrong(correction=0),
        "The standard deviation of a sample divides by n - 1, which is the default of torch's `std`.",
    ),
    (_wrong(quantile=0.95), "The quantile at 0.95 leaves 5 % out on each side. Two sides share the 5 %."),
    (_other_freedom, "n differences have n - 1 degrees of freedom: one was spent on their mean."),
    (
        _without_root,
        "That is how far single differences scatter. The mean of n scatters less: what is missing in (7.2)?",
    ),
    (
        _unpaired,
        "The spread of (7.2) is that of the differences. Yours is made of two spreads, as if nothing was paired.",
    ),
    (
        _pooled,
        "That is the interval for two independent groups. These runs share a seed: take differences first, (7.1).",
    ),
    (_turned_round, "The sign: `values` less `baseline`."),
    (_ends, "Return the mean and the half-width, not the two ends."),
]
INTERVAL_INPUTS = [
    tuple(torch.tensor(row, dtype=torch.float64) for row in pair)
    for pair in (
        ([0.846, 0.834, 0.841, 0.852], [0.840, 0.831, 0.836, 0.843]),
        ([0.71, 0.75, 0.69, 0.74, 0.77, 0.70], [0.72, 0.73, 0.70, 0.70, 0.75, 0.71]),
        ([3.0, 1.0, 2.5], [1.0, 1.5, 1.0]),
    )
]


@exercise(2, "write it: the paired interval", points=3)
def check_interval(interval: Callable) -> Result:
    """interval(values, baseline), each (n,) with one number a seed -> mean difference and half-width, (7.2)."""
    return by_comparison(interval, paired_interval, INTERVAL_INPUTS, INTERVAL_MISTAKES, out_of=3)


# --- 3. A report that flatters ---


def broken_report(validation: Tensor, test: Tensor) -> float:
    """The exercise's function: accuracies (settings, seeds, epochs) on validation and test images -> one number."""
    return float(test.amax(dim=2).mean(dim=1).max())


def report(validation: Tensor, test: Tensor) -> float:
    chosen = validation[:, :, -1].mean(dim=1).argmax()
    return float(test[chosen, :, -1].mean())


def _early_stopped(validation: Tensor, test: Tensor) -> float:
    """The best epoch on test, of a setting chosen honestly."""
    chosen = validation[:, :, -1].mean(dim=1).argmax()
    return float(test[chosen].amax(dim=1).mean())


def _chosen_on_test(validation: Tensor, test: Tensor) -> float:
    return float(test[:, :, -1].mean(dim=1).max())


def _validation_reported(validation: Tensor, test: Tensor) -> float:
    return float(validation[:, :, -1].mean(dim=1).max())


def _best_seed(validation: Tensor, test: Tensor) -> float:
    chosen = validation[:, :, -1].mean(dim=1).argmax()
    return float(test[chosen, :, -1].max())


def _one_seed_chose(validation: Tensor, test: Tensor) -> float:
    setting = validation[:, :, -1].amax(dim=1).argmax()
    return float(test[setting, :, -1].mean())


def _all_settings(validation: Tensor, test: Tensor) -> float:
    return float(test[:, :, -1].mean())


REPORT_MISTAKES = [
    (
        broken_report,
        "This still reports what the broken one does: the setting and the epoch are chosen on test images.",
    ),
    (_early_stopped, "The setting is chosen honestly now, and the epoch still on test images: take the last one."),
    (_chosen_on_test, "The epoch is the last one now, and the setting still the best on test images."),
    (
        _validation_reported,
        "You report the accuracy that you chose by. That one is flattered: look the choice up in `test`.",
    ),
    (_best_seed, "The best seed on test images is a choice as well. Report the mean over seeds."),
    (_one_seed_chose, "One lucky seed chooses your setting: take the mean over seeds first, then the largest."),
    (_all_settings, "That is the mean of all settings: choose one, on validation images."),
]


def _accuracies(seed: int) -> tuple[Tensor, Tensor]:
    """Six settings, four seeds, five epochs, in which every mistake chooses something else."""
    g = torch.Generator().manual_seed(seed)
    return tuple(0.8 + 0.05 * torch.rand(6, 4, 5, generator=g, dtype=torch.float64) for _ in range(2))


@exercise(3, "find the mistake: how much is luck?", points=1)
def check_flattery(answer: float) -> Result:
    """How far is the best of 20 settings above the truth, if all are equally good and scores scatter by 0.5 points?

    On average, in points; normal scatter, independent settings.
    """
    return by_number(
        answer,
        0.934,
        {
            0.0: "They are equal in truth, and their scores are not: the best of twenty is the luckiest.",
            0.5: "One standard deviation: one score in six lies above that. You take the best of twenty.",
            0.98: "1.96 standard deviations: one score in forty is above. Draw twenty, take the largest, do it often.",
            0.112: "That is how far the mean of twenty scatters. You do not take the mean, you take the largest.",
            1.867: "In standard deviations, yes. One is 0.5 points.",
        },
        tolerance=0.02,
    )


@exercise(3, "find the mistake: mend it", points=2)
def check_mended(function: Callable) -> Result:
    """(validation, test), each (settings, seeds, epochs) -> the mean test accuracy that one may report."""
    return by_comparison(function, report, [_accuracies(seed) for seed in range(3)], REPORT_MISTAKES, out_of=2)


# --- 4. False alarms ---


@exercise(4, "twenty comparisons", points=1)
def check_false_alarm(answer: float) -> Result:
    """Twenty independent comparisons at 95 %, no difference anywhere: how likely is at least one false alarm?"""
    return by_number(
        answer,
        1 - 0.95**20,
        {
            1.0: "One is expected on average. That is not the probability of at least one: sometimes there are three.",
            0.05: "That is the risk of one comparison.",
            0.95**20: "That is the probability of none.",
            0.95: "That is how often one comparison raises no alarm.",
            20 * 0.05 * 0.95**19: "That is the probability of exactly one, (7.5) asks for one or more.",
        },
    )


# --- 5. An open experiment: a comparison of your own ---


@exercise(5, "experiment: a comparison of your own", points=7)
def check_comparison(
    results: Mapping[str, Sequence[float]], expected: str, interval: tuple[float, float], verdict: str
) -> Result:
    """Two names -> top1 of each seed, in the same order; what you expected; (difference, half-width); the verdict.

    The difference is the second method's less the first's, between -1 and 1, and the verdict is one of "higher",
    "lower" and "cannot tell".
    """
    runs = [_numbers(values) for values in results.values()]
    paired = len(runs) == 2 and len(runs[0]) == len(runs[1]) >= 4
    measured = (
        paired_interval(*(torch.tensor(values, dtype=torch.float64) for values in runs[::-1])) if paired else None
    )
    given = _numbers(interval)
    fits = bool(measured) and len(given) == 2 and all(map(_near, given, measured))
    return by_rubric(
        [
            ("what you expected, written before you ran it", len(str(expected).split()) >= 5),
            ("two methods", len(runs) == 2),
            ("at least four seeds of each", bool(runs) and min(map(len, runs)) >= 4),
            ("the same number of seeds of each", len(runs) == 2 and len(runs[0]) == len(runs[1]) > 0),
            ("accuracies between 0 and 1", any(runs) and all(0 <= value <= 1 for run in runs for value in run)),
            ("the interval (7.2) of exactly these numbers, second less first", fits),
            ("the verdict that your interval allows", fits and verdict == _verdict(*measured)),
        ]
    )


def _numbers(values) -> list[float]:
    """As floats; none if they are something else."""
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        return []


def _near(a: float, b: float) -> bool:
    return math.isclose(a, b, abs_tol=5e-4)


def _verdict(difference: float, half_width: float) -> str:
    if abs(difference) > half_width:
        return "higher" if difference > 0 else "lower"
    return "cannot tell"
