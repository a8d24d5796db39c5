"""Checks of notebook 07: right answers get all points, and each usual wrong answer its own hint."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from kdtutor.exercises import notebook_07


def test_verdict():
    assert notebook_07.check_verdict(" D ")
    assert len({notebook_07.check_verdict(letter).hint for letter in "abc"}) == 3
    assert (
        notebook_07.check_verdict("").points == 0 and "Answer with one letter" in notebook_07.check_verdict(None).hint
    )


# --- The interval ---


def by_scipy(values, baseline):
    low, high = stats.ttest_rel(values.numpy(), baseline.numpy()).confidence_interval(0.95)
    return (low + high) / 2, (high - low) / 2


def by_hand(values, baseline, quantile=0.975, freedom=-1, divide=-1, root=0.5):
    d = (values - baseline).tolist()
    n, mean = len(d), sum(d) / len(d)
    s = math.sqrt(sum((x - mean) ** 2 for x in d) / (n + divide))
    return mean, float(stats.t.ppf(quantile, n + freedom)) * s / n**root


def test_the_right_interval():
    for function in (by_scipy, by_hand, lambda v, b: torch.tensor(by_hand(v, b))):
        assert notebook_07.check_interval(function).points == 3


def two_groups(values, baseline):
    low, high = stats.ttest_ind(values.numpy(), baseline.numpy()).confidence_interval(0.95)
    return float((values - baseline).mean()), (high - low) / 2


def two_spreads(values, baseline):
    n = len(values)
    spread = math.sqrt(np.var(values.numpy(), ddof=1) + np.var(baseline.numpy(), ddof=1))
    return float((values - baseline).mean()), stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n)


WRONG_INTERVALS = [
    (lambda v, b: by_hand(v, b, freedom=10**9), "1.96"),
    (lambda v, b: by_hand(v, b, divide=0), "divides by n - 1"),
    (lambda v, b: by_hand(v, b, quantile=0.95), "each side"),
    (lambda v, b: by_hand(v, b, freedom=0), "degrees of freedom"),
    (lambda v, b: by_hand(v, b, root=0), "single differences"),
    (two_spreads, "two spreads"),
    (two_groups, "independent groups"),
    (lambda v, b: by_hand(b, v), "The sign"),
    (lambda v, b: tuple(stats.ttest_rel(v.numpy(), b.numpy()).confidence_interval(0.95)), "not the two ends"),
]


@pytest.mark.parametrize(("function", "hint"), WRONG_INTERVALS)
def test_wrong_intervals(function, hint):
    result = notebook_07.check_interval(function)
    assert result.points == 0 and hint in result.hint


def test_every_interval_mistake_is_tried():
    assert len(WRONG_INTERVALS) == len(notebook_07.INTERVAL_MISTAKES)
    assert len({hint for _, hint in notebook_07.INTERVAL_MISTAKES}) == len(WRONG_INTERVALS)


# --- The report ---


def honest(validation, test):
    score = [float(np.mean([seed[-1] for seed in setting])) for setting in validation.numpy()]
    return float(np.mean([seed[-1] for seed in test.numpy()[int(np.argmax(score))]]))


def at(validation):
    return int(validation[:, :, -1].mean(1).argmax())


WRONG_REPORTS = [
    (notebook_07.broken_report, "still reports"),
    (lambda v, t: t[at(v)].max(dim=1).values.mean(), "epoch still on test"),
    (lambda v, t: t[:, :, -1].mean(1).max(), "setting still the best on test"),
    (lambda v, t: v[:, :, -1].mean(1).max(), "that you chose by"),
    (lambda v, t: t[at(v), :, -1].max(), "best seed"),
    (lambda v, t: t[v[:, :, -1].max(dim=1).values.argmax(), :, -1].mean(), "lucky seed"),
    (lambda v, t: t[:, :, -1].mean(), "all settings"),
]


def test_the_right_report():
    assert notebook_07.check_mended(honest).points == 2


@pytest.mark.parametrize(("function", "hint"), WRONG_REPORTS)
def test_wrong_reports(function, hint):
    result = notebook_07.check_mended(function)
    assert result.points == 0 and hint in result.hint


def test_every_report_mistake_is_tried():
    assert len(WRONG_REPORTS) == len({hint for _, hint in notebook_07.REPORT_MISTAKES})


def test_flattery():
    drawn = 0.5 * np.random.default_rng(0).standard_normal((100_000, 20)).max(axis=1).mean()
    assert notebook_07.check_flattery(drawn)
    wrong = (0, 0.5, 0.98, 0.112, 1.867)
    hints = {notebook_07.check_flattery(value).hint for value in wrong}
    assert len(hints) == len(wrong) and not any("on one sample" in hint for hint in hints)
    for value in (*wrong, 0.9, None, "much", float("nan")):
        assert notebook_07.check_flattery(value).points == 0


def test_functions_that_cannot_run():
    def blank(one, other):
        raise NotImplementedError

    for check in (notebook_07.check_interval, notebook_07.check_mended):
        assert "not written yet" in check(blank).hint and check(blank).points == 0
        assert "Pass the function itself" in check(None).hint
        assert "return missing" in check(lambda one, other: None).hint
        assert check(lambda one, other: 1 / 0).points == 0


# --- False alarms ---


def test_false_alarm():
    exact = 1 - stats.binom.pmf(0, 20, 0.05)
    assert notebook_07.check_false_alarm(exact) and notebook_07.check_false_alarm(0.64)
    wrong = (1, 0.05, stats.binom.pmf(0, 20, 0.05), 0.95, stats.binom.pmf(1, 20, 0.05))
    hints = {notebook_07.check_false_alarm(value).hint for value in wrong}
    assert len(hints) == len(wrong) and not any("on one sample" in hint for hint in hints)
    for value in (*wrong, None, "64 %", float("nan")):
        assert notebook_07.check_false_alarm(value).points == 0


# --- The experiment ---

OUTCOME = {"ce": [0.70, 0.72, 0.71, 0.69], "kd": [0.74, 0.73, 0.76, 0.72]}
INTERVAL = by_scipy(*(torch.tensor(OUTCOME[name], dtype=torch.float64) for name in ("kd", "ce")))
SAID = "kd is better by three points or more"
PERCENT = {name: [100 * value for value in values] for name, values in OUTCOME.items()}


def test_a_whole_comparison():
    assert notebook_07.check_comparison(OUTCOME, SAID, INTERVAL, "higher").points == 7
    one_way = dict(reversed(OUTCOME.items()))
    assert notebook_07.check_comparison(one_way, SAID, (-INTERVAL[0], INTERVAL[1]), "lower")
    level = {"ce": [0.70, 0.72, 0.71, 0.69], "again": [0.72, 0.70, 0.70, 0.71]}
    mean, half = by_scipy(*(torch.tensor(level[name], dtype=torch.float64) for name in ("again", "ce")))
    assert notebook_07.check_comparison(level, SAID, (mean, half), "cannot tell")
    assert notebook_07.check_comparison(level, SAID, (mean, half), "higher").points == 6


@pytest.mark.parametrize(
    ("outcome", "expected", "interval", "verdict", "points", "missing"),
    [
        (OUTCOME, "", INTERVAL, "higher", 6, "what you expected"),
        (OUTCOME, SAID, INTERVAL, "lower", 6, "the verdict that your interval allows"),
        (OUTCOME, SAID, (-INTERVAL[0], INTERVAL[1]), "lower", 5, "second less first"),
        (OUTCOME, SAID, (100 * INTERVAL[0], 100 * INTERVAL[1]), "higher", 5, "the interval"),
        (PERCENT, SAID, by_scipy(*(torch.tensor(PERCENT[n]) for n in ("kd", "ce"))), "higher", 6, "between 0 and 1"),
        ({name: of[:3] for name, of in OUTCOME.items()}, SAID, INTERVAL, "higher", 4, "four seeds"),
        ({**OUTCOME, "kd": [0.7] * 5}, SAID, INTERVAL, "higher", 4, "the same number of seeds"),
        ({**OUTCOME, "sp": [0.7] * 4}, SAID, INTERVAL, "higher", 3, "two methods"),
    ],
)
def test_what_a_comparison_lacks(outcome, expected, interval, verdict, points, missing):
    result = notebook_07.check_comparison(outcome, expected, interval, verdict)
    assert result.points == points and missing in result.hint


@pytest.mark.parametrize("interval", [None, (), 3, ("a", "b"), (1, 2, 3)])
def test_blanks_and_garbage(interval):
    assert notebook_07.check_comparison({}, "", interval, "").points == 0
    for outcome in ({"a": []}, {"a": None, "b": 3}, {"a": ["high"]}, {"a": [math.nan] * 4}):
        assert notebook_07.check_comparison(outcome, "", interval, None).points <= 1  # for the four seeds of the last
