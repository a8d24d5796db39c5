"""The seeds explorer: imagined comparisons, and the chance of seeing a difference."""

import html
import re

import numpy as np
import pytest
from scipy import stats

from kdtutor.explorers import SeedsExplorer
from kdtutor.explorers.seeds import MOST_SEEDS, chance_of_seeing, paired_spread


@pytest.fixture
def explorer():
    return SeedsExplorer()


def said(explorer):
    return html.unescape(re.sub("<[^>]*>", "", explorer.numbers.value))


@pytest.mark.parametrize(
    ("difference", "spread", "seeds"), [(0.5, 0.7, 5), (-0.5, 0.7, 5), (0.2, 0.3, 2), (1, 1.5, 12), (0.1, 0.1, 20)]
)
def test_the_chance_is_that_of_the_noncentral_t(difference, spread, seeds):
    shift, limit = difference * seeds**0.5 / spread, stats.t.ppf(0.975, seeds - 1)
    wanted = stats.nct.sf(limit, seeds - 1, shift) + stats.nct.cdf(-limit, seeds - 1, shift)
    assert chance_of_seeing(difference, spread, seeds) == pytest.approx(wanted, abs=1e-4)


def test_limits_of_the_chance():
    assert all(chance_of_seeing(0, 0.3, n) == pytest.approx(0.05, abs=1e-4) for n in range(2, 21))
    assert chance_of_seeing(2, 0.04, 20) == pytest.approx(1)
    assert 0.99 < chance_of_seeing(2, 0.04, 2) <= 1  # where scipy's noncentral t gives NaN


def test_the_chance_by_drawing():
    draws = 0.4 + 0.6 * np.random.default_rng(0).standard_normal((40_000, 4))
    low, high = stats.ttest_1samp(draws, 0, axis=1).confidence_interval(0.95)
    assert chance_of_seeing(0.4, 0.6, 4) == pytest.approx(np.mean((low > 0) | (high < 0)), abs=0.01)


def test_the_spread_of_paired_runs_by_drawing():
    cov = 0.3**2 * np.array([[1, 0.6], [0.6, 1]])
    one, other = np.random.default_rng(1).multivariate_normal([0, 0], cov, size=100_000).T
    assert paired_spread(0.3, 0.6) == pytest.approx(np.std(one - other), rel=0.01)
    assert paired_spread(0.3, 1) == 0


def test_the_picture_shows_the_intervals_of_its_draws(explorer):
    for difference, spread, alike, seeds in ((0.5, 0.5, 0.0, 5), (1.2, 1.5, 0.6, 2), (0, 0.1, 0.9, 20)):
        for control, value in zip(
            (explorer.difference, explorer.spread, explorer.alike, explorer.seeds),
            (difference, spread, alike, seeds),
            strict=True,
        ):
            control.value = value
        values = difference + spread * np.sqrt(2 - 2 * alike) * explorer.draws[:, :seeds]
        low, high = stats.ttest_1samp(values, 0, axis=1).confidence_interval(0.95)
        segments = np.array(explorer._bars.get_segments())
        np.testing.assert_allclose(segments[:, 0, 0], low, atol=1e-9)
        np.testing.assert_allclose(segments[:, 1, 0], high, atol=1e-9)
        np.testing.assert_allclose(explorer._points.get_offsets()[:, 0], values.mean(axis=1), atol=1e-9)
        seen = (low > 0) | (high < 0)
        assert [color[3] > 0 for color in explorer._points.get_facecolors()] == list(seen)
        assert explorer._title.get_text() == f"{seen.sum()} of 20 leave zero out"
        (x,), (y,) = explorer._here.get_data()
        assert x == seeds and y == pytest.approx(explorer._curve.get_ydata()[seeds - 2])


def test_numbers_below_the_picture(explorer):
    assert "spread of a paired difference 0.71 points" in said(explorer)
    assert "chance of seeing it 23 %" in said(explorer)
    assert "seeds for four of five 18" in said(explorer)
    explorer.difference.value = 0
    assert "chance of seeing it 5 %" in said(explorer) and f"more than {MOST_SEEDS}" in said(explorer)
    assert "1 of 20" in explorer._title.get_text()  # as the class's docstring says


def test_every_step_changes_picture_and_words_and_rebuilds_nothing(explorer):
    artists = [id(artist) for artist in explorer.figure.findobj()]
    for control in (explorer.difference, explorer.spread, explorer.alike, explorer.seeds):
        before = control.value
        steps = round((control.max - control.min) / control.step)
        seen = []
        for step in (0, 1, 2, steps // 2, steps - 1, steps):
            control.value = control.min + step * control.step
            seen.append((explorer.png, explorer.alt))
        assert len({png for png, _ in seen}) == len({alt for _, alt in seen}) == 6
        control.value = before
    assert [id(artist) for artist in explorer.figure.findobj()] == artists
    assert {"kdtutor-explorer", "kdtutor-seeds"} <= set(explorer._dom_classes)


@pytest.mark.filterwarnings("error")
def test_extremes(explorer):
    controls = (explorer.difference, explorer.spread, explorer.alike, explorer.seeds)
    for corner in np.ndindex(2, 2, 2, 2):
        for control, end in zip(controls, corner, strict=True):
            control.value = (control.min, control.max)[end]
        assert "nan" not in said(explorer).lower()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: chance_of_seeing(0.5, 0, 5), ValueError, "spread must be greater than 0, got 0"),
        (lambda: chance_of_seeing(0.5, 0.5, 1), ValueError, "seeds must be at least 2, got 1"),
        (lambda: chance_of_seeing(0.5, 0.5, 2.5), TypeError, "seeds must be a whole number"),
        (lambda: paired_spread(-1, 0), ValueError, "spread must be 0 or greater, got -1"),
        (lambda: paired_spread(1, 1.5), ValueError, "alike must be between 0 and 1, got 1.5"),
    ],
)
def test_what_does_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call()
