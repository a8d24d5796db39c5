"""Soft ranks and correlations against scikit-learn, scipy and the definition of a projection; CMKD and DIST by hand."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy, pearsonr, rankdata, spearmanr, zscore
from sklearn.isotonic import IsotonicRegression

from kdtutor.losses import cmkd_loss, dist_loss, pearson_correlation, soft_rank, spearman_correlation
from kdtutor.losses.correlation import _blocks_by_merging, _blocks_by_min_max

EXACT = dict(rel=1e-9, abs=1e-12)
seeds = st.integers(0, 2**32 - 1)
batches = st.tuples(st.integers(1, 6), st.integers(2, 12), seeds)  # B, C, seed
strengths = st.sampled_from([1e-6, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 1e3])
tied_values = st.lists(st.integers(-4, 4), min_size=2, max_size=12)  # few distinct values: ties are common


def draw_logits(batch):
    B, C, seed = batch
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(0, 3, (B, C))), torch.from_numpy(rng.normal(0, 3, (B, C)))


# --- Soft ranks ---


def soft_rank_by_hand(values, strength):
    """Blondel et al., section 5, with scikit-learn's isotonic regression; and the pooled blocks it found."""
    order = np.argsort(-values, kind="stable")
    s = values[order] / strength
    n = len(values)
    v = IsotonicRegression(increasing=False).fit_transform(np.arange(n), s - np.arange(n, 0, -1))
    ranks, fit = np.empty(n), np.empty(n)
    ranks[order], fit[order] = s - v, v
    return ranks, fit


def test_soft_rank_of_the_published_vector():
    values = torch.tensor([8.0, 0, 5, 3, 2, 1, 6, 7, 9], dtype=torch.float64)
    assert soft_rank(values, 1.0).tolist() == pytest.approx([8, 1, 5, 4, 3, 2, 6, 7, 9])
    assert torch.equal(soft_rank(values), soft_rank(values, 1.0))


@given(batches, strengths)
def test_soft_rank_is_isotonic_regression(batch, strength):
    values, _ = draw_logits(batch)
    expected = [soft_rank_by_hand(row, strength)[0] for row in values.numpy()]
    assert soft_rank(values, strength).numpy() == pytest.approx(np.array(expected), rel=1e-9, abs=1e-8)


@given(tied_values, strengths)
def test_soft_rank_with_ties_is_isotonic_regression(values, strength):
    values = np.array(values, dtype=np.float64)
    expected, _ = soft_rank_by_hand(values, strength)
    assert soft_rank(torch.from_numpy(values), strength).numpy() == pytest.approx(expected, rel=1e-9, abs=1e-8)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=5), strengths)
def test_soft_rank_is_the_nearest_point_of_the_permutahedron(values, strength):
    # r is the projection of theta on the hull of all orders of (1, ..., n) if and only if it lies in the
    # hull and no corner c makes an acute angle with theta - r: <theta - r, c - r> <= 0.
    theta = np.array(values) / strength
    n = len(theta)
    r = soft_rank(torch.tensor(values, dtype=torch.float64), strength).numpy()
    scale = 1 + np.abs(theta).max()
    for corner in itertools.permutations(range(1, n + 1)):
        assert (theta - r) @ (corner - r) <= 1e-9 * n * n * scale
    largest_first = np.sort(r)[::-1]
    for k in range(1, n + 1):  # in the hull: no k ranks add up to more than the k largest whole ranks
        assert largest_first[:k].sum() <= sum(range(n - k + 1, n + 1)) + 1e-9 * scale


@given(batches, strengths)
def test_soft_ranks_add_up_and_keep_the_order(batch, strength):
    values, _ = draw_logits(batch)
    n = values.shape[1]
    ranks = soft_rank(values, strength)
    assert ranks.sum(dim=1).numpy() == pytest.approx(n * (n + 1) / 2, rel=1e-9)
    in_order = ranks.gather(1, values.argsort(dim=1))
    assert (in_order.diff(dim=1) >= -1e-9).all()
    assert ranks.min() >= 1 - 1e-8 and ranks.max() <= n + 1e-8


@given(batches, strengths, st.floats(-50, 50))
def test_soft_rank_moves_with_its_entries_and_not_with_their_level(batch, strength, level):
    values, _ = draw_logits(batch)
    ranks = soft_rank(values, strength)
    order = np.random.default_rng(batch[2]).permutation(batch[1])
    assert soft_rank(values[:, order], strength).numpy() == pytest.approx(ranks[:, order].numpy(), abs=1e-7)
    assert soft_rank(values + level, strength).numpy() == pytest.approx(ranks.numpy(), abs=1e-6)


@given(tied_values)
def test_small_strength_gives_the_ranks_with_ties_averaged(values):
    ranks = soft_rank(torch.tensor(values, dtype=torch.float64), 1e-4)
    assert ranks.numpy() == pytest.approx(rankdata(values, method="average"), abs=1e-9)


@given(batches)
def test_large_strength_gives_a_straight_line(batch):
    values, _ = draw_logits(batch)
    n, strength = values.shape[1], 1e3
    expected = (n + 1) / 2 + (values - values.mean(dim=1, keepdim=True)) / strength
    assert soft_rank(values, strength).numpy() == pytest.approx(expected.numpy(), **EXACT)


@given(batches, st.sampled_from([0.03, 0.3, 1.0, 3.0, 1e3]))
def test_soft_rank_gradient_is_own_less_the_mean_of_the_block(batch, strength):
    values, upstream = draw_logits(batch)
    (grad,) = torch.autograd.grad(soft_rank(values.requires_grad_(), strength), values, upstream)
    for row, g, got in zip(values.detach().numpy(), upstream.numpy(), grad.numpy(), strict=True):
        _, fit = soft_rank_by_hand(row, strength)
        same_block = np.abs(fit[:, None] - fit[None, :]) <= 1e-9 * (1 + np.abs(fit).max())
        expected = [(g[i] - g[same_block[i]].mean()) / strength for i in range(len(g))]
        assert got == pytest.approx(np.array(expected), rel=1e-9, abs=1e-9)


@given(batches)
def test_small_strength_has_no_gradient(batch):
    values, upstream = draw_logits(batch)
    assume((values.sort(dim=1).values.diff(dim=1) > 1e-3).all())
    (grad,) = torch.autograd.grad(soft_rank(values.requires_grad_(), 1e-4), values, upstream)
    assert grad.abs().max() == 0


def test_soft_rank_of_leading_dimensions_and_of_one_value():
    values = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(soft_rank(values).reshape(6, 5), soft_rank(values.reshape(6, 5)))
    assert soft_rank(torch.tensor([[7.0], [-3.0]])).tolist() == [[1.0], [1.0]]


def test_ranks_of_a_thousand_classes_in_float32():
    values = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    assert soft_rank(values, 1e-8).numpy() == pytest.approx(rankdata(values, axis=1), abs=1e-3)


# The two ways to find the blocks: the loop of the CPU and the formula of every other device.


@given(st.integers(1, 5), st.integers(1, 40), seeds, st.sampled_from([0.1, 1.0, 10.0]))
def test_both_ways_to_pool_find_the_blocks_of_isotonic_regression(rows, n, seed, scale):
    y = np.random.default_rng(seed).normal(0, scale, (rows, n)) + np.linspace(scale, -scale, n)
    fits = [IsotonicRegression(increasing=False).fit_transform(np.arange(n), row) for row in y]
    expected = [np.cumsum(np.abs(np.diff(fit, prepend=fit[0])) > 1e-9) for fit in fits]
    for pooled in (_blocks_by_merging, _blocks_by_min_max):
        assert np.array_equal(pooled(torch.from_numpy(y)).numpy(), np.array(expected))


@pytest.mark.parametrize("pooled", [_blocks_by_merging, _blocks_by_min_max])
def test_pooling_of_rows_that_need_none_or_all_of_it(pooled):
    falling, rising = torch.arange(8, 0, -1.0), torch.arange(8.0)
    assert pooled(torch.stack((falling, rising)).double()).tolist() == [list(range(8)), [0] * 8]


# --- Pearson and Spearman ---


@given(batches)
def test_pearson_is_scipys(batch):
    a, b = draw_logits(batch)
    assume(batch[1] > 1)
    expected = [pearsonr(x, y).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert pearson_correlation(a, b).numpy() == pytest.approx(np.array(expected), **EXACT)
    assert pearson_correlation(a.T, b.T, dim=0).numpy() == pytest.approx(np.array(expected), **EXACT)


@given(batches, st.floats(0.01, 100), st.floats(-50, 50))
def test_pearson_is_symmetric_and_ignores_scale_and_shift(batch, scale, shift):
    a, b = draw_logits(batch)
    rho = pearson_correlation(a, b)
    assert torch.equal(pearson_correlation(b, a), rho)
    assert pearson_correlation(scale * a + shift, b).numpy() == pytest.approx(rho.numpy(), rel=1e-6, abs=1e-7)
    assert pearson_correlation(-scale * a + shift, b).numpy() == pytest.approx(-rho.numpy(), rel=1e-6, abs=1e-7)
    assert pearson_correlation(a, a).numpy() == pytest.approx(1, **EXACT)


@given(batches)
def test_distance_of_standardised_rows_is_2_less_2_rho(batch):
    a, b = draw_logits(batch)
    distance = ((zscore(a.numpy(), axis=1) - zscore(b.numpy(), axis=1)) ** 2).mean(axis=1)
    assert 2 * (1 - pearson_correlation(a, b)).numpy() == pytest.approx(distance, rel=1e-6, abs=1e-9)


def spearman_by_hand(a, b, strength):
    ranks = [soft_rank_by_hand(zscore(row), strength)[0] for row in (a, b)]
    return pearsonr(*ranks).statistic


@given(batches, st.sampled_from([0.01, 0.1, 0.3, 1.0]))
def test_spearman_is_pearson_of_the_soft_ranks_of_z_scores(batch, strength):
    a, b = draw_logits(batch)
    assume(batch[1] > 2)
    expected = [spearman_by_hand(x, y, strength) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert spearman_correlation(a, b, strength).numpy() == pytest.approx(np.array(expected), rel=1e-6, abs=1e-8)
    assert torch.equal(spearman_correlation(b, a, strength), spearman_correlation(a, b, strength))
    assert torch.equal(spearman_correlation(a, b), spearman_correlation(a, b, 3 / batch[1]))


@given(batches)
def test_spearman_at_small_strength_is_scipys(batch):
    a, b = draw_logits(batch)
    assume(batch[1] > 2)
    expected = [spearmanr(x, y).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert spearman_correlation(a, b, 1e-9).numpy() == pytest.approx(np.array(expected), abs=1e-6)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=12))
def test_spearman_with_ties_at_small_strength_is_scipys(pairs):
    a, b = np.array(pairs, dtype=np.float64).T
    assume(np.ptp(a) > 0 and np.ptp(b) > 0)
    rho = spearman_correlation(torch.from_numpy(a), torch.from_numpy(b), 1e-6)
    assert rho.item() == pytest.approx(spearmanr(a, b).statistic, abs=1e-6)


@given(batches, st.sampled_from([1e2, 1e4, 1e6, 1e9]))
def test_spearman_at_large_strength_is_pearson(batch, strength):
    a, b = draw_logits(batch)
    assume(batch[1] > 2)
    assert spearman_correlation(a, b, strength).numpy() == pytest.approx(pearson_correlation(a, b).numpy(), abs=1e-6)


def test_large_strength_is_pearson_in_float32_and_in_gradient():
    a, b = (z.float() for z in draw_logits((8, 10, 0)))
    a.requires_grad_()
    grads = [
        torch.autograd.grad(rho.sum(), a)[0] for rho in (spearman_correlation(a, b, 1e4), pearson_correlation(a, b))
    ]
    assert spearman_correlation(a, b, 1e4).tolist() == pytest.approx(pearson_correlation(a, b).tolist(), abs=1e-5)
    assert grads[0].numpy() == pytest.approx(grads[1].numpy(), abs=1e-5)


@given(batches, st.floats(0.01, 100), st.floats(-50, 50))
def test_spearman_ignores_scale_and_shift_at_any_strength(batch, scale, shift):
    a, b = draw_logits(batch)
    moved = spearman_correlation(scale * a + shift, b)
    assert moved.numpy() == pytest.approx(spearman_correlation(a, b).numpy(), rel=1e-6, abs=1e-6)


# Strength, share of coordinates that get a gradient, and how well soft ranks correlate with true ones:
# the table of the course, here measured again on normal logits.
@pytest.mark.parametrize(
    ("classes", "strength", "fidelity", "coverage"),
    [(10, 0.3, 0.98, 0.83), (10, 0.1, 0.997, 0.38), (100, 0.03, 0.99, 0.91), (1000, 0.003, 0.999, 0.87)],
)
def test_the_trade_between_true_ranks_and_gradients(classes, strength, fidelity, coverage):
    rows = 40_000 // classes
    values = torch.from_numpy(zscore(np.random.default_rng(0).normal(size=(rows, classes)), axis=1)).requires_grad_()
    ranks = soft_rank(values, strength)
    true_ranks = torch.from_numpy(rankdata(values.detach(), axis=1))
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=values.shape))
    (grad,) = torch.autograd.grad(ranks, values, weights)
    measured = np.mean([pearsonr(x, y).statistic for x, y in zip(ranks.detach(), true_ranks, strict=True)])
    assert measured == pytest.approx(fidelity, abs=0.01)
    assert (grad.abs() > 1e-12).double().mean().item() == pytest.approx(coverage, abs=0.05)


@pytest.mark.parametrize("correlation", [pearson_correlation, spearman_correlation])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0.0, 1 / 3, -1e4])
def test_constant_rows_have_no_correlation_and_no_gradient(correlation, dtype, level):
    a = torch.randn(3, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    a[1] = level
    b = torch.randn(3, 10, generator=torch.Generator().manual_seed(1)).to(dtype)
    for first, second in ((a, b), (b, a), (a, a)):
        leaf = first.clone().requires_grad_()
        rho = correlation(leaf, second)
        (grad,) = torch.autograd.grad(rho.sum(), leaf)
        assert rho[1] == 0 and (grad[1] == 0).all()
        assert rho.isfinite().all() and grad.isfinite().all()


@pytest.mark.parametrize("correlation", [pearson_correlation, spearman_correlation])
def test_rows_that_vary_by_rounding_alone_count_as_constant(correlation):
    level = torch.tensor([[0.3, 0.1 + 0.2, 0.3, 0.3]], dtype=torch.float64)
    assert level.unique().numel() == 2
    other = torch.tensor([[1.0, 2.0, 3.0, 5.0]], dtype=torch.float64)
    assert correlation(level, other).item() == 0
    assert correlation(level + 1e-9 * other, other).item() == pytest.approx(1, abs=1e-6)  # this is variation


# --- CMKD ---


def difficulty_by_hand(logits, tau, measure):
    p = softmax(logits / tau)
    if measure == "margin":
        smaller, larger = np.sort(p)[-2:]
        return 1 - (larger - smaller)
    return entropy(p) / np.log(len(p))


def cmkd_by_hand(student, teacher, difficulty, tau, favor, dynamic, strength):
    values = []
    for s, t in zip(student, teacher, strict=True):
        asked = s if difficulty == "student_entropy" else t
        d = difficulty_by_hand(asked, tau, difficulty.split("_")[1]) if dynamic else 0.5
        w_spearman, w_pearson = (d, 1 - d) if favor == "spearman" else (1 - d, d)
        pearson, spearman = 1 - pearsonr(s, t).statistic, 1 - spearman_by_hand(s, t, strength)
        values.append(w_pearson * pearson + w_spearman * spearman)
    return np.array(values)


@pytest.mark.parametrize("difficulty", ["teacher_entropy", "student_entropy", "teacher_margin"])
@pytest.mark.parametrize("favor", ["spearman", "pearson"])
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize(("tau", "strength"), [(4.0, 0.3), (1.0, 0.05), (20.0, 2.0)])
def test_cmkd_is_its_formula(difficulty, favor, dynamic, tau, strength):
    student, teacher = draw_logits((7, 10, 0))
    expected = cmkd_by_hand(student.numpy(), teacher.numpy(), difficulty, tau, favor, dynamic, strength)
    arguments = (student, teacher, difficulty, tau, favor, dynamic, strength)
    assert cmkd_loss(*arguments).item() == pytest.approx(expected.mean(), rel=1e-8)
    assert cmkd_loss(*arguments, reduction="none").numpy() == pytest.approx(expected, rel=1e-8)


def test_cmkd_defaults():
    student, teacher = draw_logits((7, 10, 1))
    expected = cmkd_by_hand(student.numpy(), teacher.numpy(), "teacher_entropy", 4.0, "spearman", True, 0.3).mean()
    assert cmkd_loss(student, teacher).item() == pytest.approx(expected, rel=1e-8)


@given(batches)
def test_cmkd_is_zero_for_any_increasing_line_of_the_teacher_and_blind_to_order(batch):
    student, teacher = draw_logits(batch)
    assert cmkd_loss(3 * teacher + 2, teacher).item() == pytest.approx(0, abs=1e-9)
    rng = np.random.default_rng(batch[2])
    samples, classes = rng.permutation(batch[0]), rng.permutation(batch[1])
    shuffled = cmkd_loss(student[samples][:, classes], teacher[samples][:, classes])
    assert shuffled.item() == pytest.approx(cmkd_loss(student, teacher).item(), rel=1e-8, abs=1e-10)


def test_difficulty_of_sure_and_of_undecided_teachers():
    student, _ = draw_logits((2, 10, 0))
    sure_and_undecided = torch.zeros(2, 10, dtype=torch.float64)
    sure_and_undecided[0, 3] = 1e3
    sure_and_undecided[1] += 1e-6 * torch.arange(10)
    for difficulty in ("teacher_entropy", "teacher_margin"):
        loss = cmkd_loss(student, sure_and_undecided, difficulty, reduction="none")
        assert loss[0].item() == pytest.approx(1 - pearsonr(student[0], sure_and_undecided[0]).statistic, abs=1e-6)
        assert loss[1].item() == pytest.approx(1 - spearman_by_hand(student[1], sure_and_undecided[1], 0.3), abs=1e-4)


def test_cmkd_weights_pass_no_gradient():
    student, teacher = draw_logits((5, 10, 2))
    student.requires_grad_()
    # Weights that moved with the student would let it lower the loss by becoming sure instead of right.
    (grad,) = torch.autograd.grad(cmkd_loss(student, teacher, "student_entropy"), student)
    d = torch.tensor([difficulty_by_hand(row, 4.0, "entropy") for row in student.detach().numpy()])
    fixed = (1 - d) * (1 - pearson_correlation(student, teacher)) + d * (1 - spearman_correlation(student, teacher))
    (expected,) = torch.autograd.grad(fixed.mean(), student)
    assert grad.numpy() == pytest.approx(expected.numpy(), **EXACT)


# --- DIST ---


def dist_by_hand(student, teacher, T, beta, gamma):
    p_s, p_t = softmax(student / T, axis=1), softmax(teacher / T, axis=1)

    def rho(x, y):
        x, y = x - x.mean(), y - y.mean()
        return (x * y).sum() / (np.sqrt((x**2).sum()) * np.sqrt((y**2).sum()) + 1e-8)

    rows = np.mean([rho(x, y) for x, y in zip(p_s, p_t, strict=True)])
    columns = np.mean([rho(x, y) for x, y in zip(p_s.T, p_t.T, strict=True)])
    return T**2 * (beta * (1 - rows) + gamma * (1 - columns))


@given(batches, st.floats(0.5, 10), st.floats(0, 3), st.floats(0, 3))
def test_dist_is_its_formula(batch, T, beta, gamma):
    student, teacher = draw_logits(batch)
    expected = dist_by_hand(student.numpy(), teacher.numpy(), T, beta, gamma)
    assert dist_loss(student, teacher, T, beta, gamma).item() == pytest.approx(expected, **EXACT)


def test_dist_defaults():
    student, teacher = draw_logits((7, 10, 1))
    assert dist_loss(student, teacher).item() == pytest.approx(
        dist_by_hand(student.numpy(), teacher.numpy(), 4, 1, 1), **EXACT
    )


def test_dist_is_pearson_between_classes_and_between_samples():
    student, teacher = draw_logits((30, 10, 2))
    p_s, p_t = softmax(student.numpy() / 4, axis=1), softmax(teacher.numpy() / 4, axis=1)
    rows = np.mean([pearsonr(x, y).statistic for x, y in zip(p_s, p_t, strict=True)])
    columns = np.mean([pearsonr(x, y).statistic for x, y in zip(p_s.T, p_t.T, strict=True)])
    # The published 1e-8 beside denominators of about .01 and more.
    assert dist_loss(student, teacher, gamma=0.0).item() == pytest.approx(16 * (1 - rows), rel=1e-5)
    assert dist_loss(student, teacher, beta=0.0).item() == pytest.approx(16 * (1 - columns), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dist_counts_a_row_or_column_without_variance_as_uncorrelated(dtype):
    # Rows without variance: equal logits. Columns without variance: equal samples.
    constant = torch.full((4, 7), 1 / 3, dtype=dtype)
    varied = torch.randn(4, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    same_samples = varied[:1].repeat(4, 1)
    for student, teacher in ((constant, varied), (varied, constant), (constant, constant)):
        student = student.clone().requires_grad_()
        loss = dist_loss(student, teacher)
        (grad,) = torch.autograd.grad(loss, student)
        assert loss.item() == pytest.approx(32, abs=1e-6) and (grad == 0).all()
    same_samples.requires_grad_()
    between_samples = dist_loss(same_samples, varied, beta=0.0)
    (grad,) = torch.autograd.grad(between_samples, same_samples)
    assert between_samples.item() == pytest.approx(16, abs=1e-6) and (grad == 0).all()


def test_dist_of_one_sample_keeps_only_the_classes():
    student, teacher = draw_logits((1, 10, 0))
    assert dist_loss(student, teacher).item() == pytest.approx(
        dist_loss(student, teacher, gamma=0.0).item() + 16, **EXACT
    )
