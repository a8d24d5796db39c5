"""The arithmetic under the audit: sums of gradients, powers of sizes, blends of images, the Beta distribution."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kdtutor.audit.fit import fit_power_law, fit_sum
from kdtutor.audit.mixing import _distance_to_beta, read_blend

MANY = settings(max_examples=60, deadline=None, derandomize=True)


@MANY
@given(st.lists(st.floats(-100, 100).filter(lambda x: abs(x) > 1e-3), min_size=1, max_size=4), st.integers(0, 99))
def test_fit_sum_recovers_coefficients(coefficients, seed):
    rows = (
        np.random.default_rng(seed).normal(size=(len(coefficients), 40)) * 10.0 ** np.arange(len(coefficients))[:, None]
    )
    parts = [torch.tensor(row) for row in rows]
    found, residual = fit_sum(sum(c * part for c, part in zip(coefficients, parts, strict=True)), parts)
    np.testing.assert_allclose(found, coefficients, rtol=1e-6)
    assert residual < 1e-9


def test_fit_sum_residual_is_the_part_that_is_at_right_angles():
    found, residual = fit_sum(
        torch.tensor([3.0, 4.0], dtype=torch.float64), [torch.tensor([2.0, 0.0], dtype=torch.float64)]
    )
    assert math.isclose(found[0], 1.5) and math.isclose(residual, 0.8)


def test_fit_sum_of_nothing_explains_nothing():
    zero = torch.zeros(3, dtype=torch.float64)
    assert fit_sum(zero, [zero + 1]) == ([0.0], math.inf)
    assert fit_sum(zero + math.nan, [zero + 1]) == ([0.0], math.inf)
    assert fit_sum(zero + 1, [zero]) == ([0.0], 1.0)


SIZES = [{"B": b, "C": c, "T": t} for b, c, t in ((8, 10, 4), (16, 10, 4), (8, 20, 4), (8, 10, 2), (5, 6, 8))]


@MANY
@given(
    st.floats(1e-3, 1e3),
    st.sampled_from([1, -1]),
    st.tuples(*[st.sampled_from([-2, -1, -0.5, 0, 0.5, 1, 2])] * 3),
)
def test_power_laws_are_read_back(constant, sign, powers):
    due = dict(zip("BCT", powers, strict=True))
    factors = [sign * constant * math.prod(case[name] ** due[name] for name in "BCT") for case in SIZES]
    law = fit_power_law(factors, [{k: float(v) for k, v in case.items()} for case in SIZES])
    assert law.powers == {name: power for name, power in due.items() if power}
    assert math.isclose(law.constant, sign * constant, rel_tol=1e-6) and law.error < 1e-6


def test_what_is_no_power_law_shows_an_error():
    factors = [case["B"] / (case["B"] - 1) for case in SIZES]
    assert fit_power_law(factors, SIZES).error > 0.02
    assert fit_power_law([1.0, -1.0, 1.0, 1.0, 1.0], SIZES) is None
    assert fit_power_law([0.0] * 5, SIZES) is None


@MANY
@given(st.floats(0.01, 0.99), st.integers(3, 12), st.integers(0, 99))
def test_a_blend_is_read_back(lam, count, seed):
    g = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 2, 6, 5, generator=g)
    partner = torch.randperm(count, generator=g)
    blend = read_blend(images, lam * images + (1 - lam) * images[partner])
    moved = partner != torch.arange(count)
    assert torch.equal(blend.partner, partner) and blend.error < 1e-4
    torch.testing.assert_close(blend.lam[moved], torch.full_like(blend.lam[moved], lam), atol=1e-4, rtol=0)


def test_no_blend_leaves_an_error():
    images = torch.randn(6, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    three = (images + images.roll(1, 0) + images.roll(2, 0)) / 3
    assert read_blend(images, three).error > 0.1


@MANY
@given(st.sampled_from([0.2, 0.4, 1.0, 2.0]), st.integers(0, 99))
def test_distance_to_beta_agrees_with_scipy(alpha, seed):
    draws = np.random.default_rng(seed).beta(0.7, 0.7, size=150)
    due = stats.kstest(draws, stats.beta(alpha, alpha).cdf).statistic
    assert abs(_distance_to_beta(torch.tensor(draws), alpha) - due) < 5e-3
