"""Mixup, its cross-entropy, STKD and the interpolated target against their formulas."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import log_softmax, rel_entr, softmax

from kdtutor.losses import interpolated_logits, kd_loss, mixup, mixup_cross_entropy, stkd_loss

EXACT = dict(rel=1e-9, abs=1e-12)
batches = st.tuples(st.integers(1, 6), st.integers(2, 12), st.integers(0, 2**32 - 1))  # B, C, seed
lams = st.floats(0, 1)
temperatures = st.floats(0.3, 30)


def draw(batch):
    """Two (B, C) logits and two (B,) labels."""
    B, C, seed = batch
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 3, (2, B, C)))
    labels = torch.from_numpy(rng.integers(0, C, (2, B)))
    return *logits, *labels


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# --- Mixup ---


@given(st.integers(1, 8), st.floats(0.05, 5), st.integers(0, 2**32 - 1))
def test_mixup_blends_each_image_with_its_partner(B, alpha, seed):
    images = torch.rand(B, 2, 3, 3, generator=seeded(seed), dtype=torch.float64)
    labels = torch.arange(B)
    mixed = mixup(images, labels, alpha, seeded(seed))
    partners = mixed.permutation.tolist()
    assert sorted(partners) == list(range(B))
    assert 0 <= mixed.lam <= 1
    for i, j in enumerate(partners):
        expected = mixed.lam * images[i] + (1 - mixed.lam) * images[j]
        assert mixed.images[i].numpy() == pytest.approx(expected.numpy(), **EXACT)
        assert mixed.labels[i] == i and mixed.permuted_labels[i] == j


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_lam_follows_beta_alpha_alpha(alpha):
    generator, images, labels = seeded(0), torch.zeros(2, 1), torch.zeros(2, dtype=torch.long)
    draws = [mixup(images, labels, alpha, generator).lam for _ in range(2000)]
    assert stats.kstest(draws, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert stats.kstest(draws, stats.beta(2 * alpha, 2 * alpha).cdf).pvalue < 1e-4  # 2,000 draws do tell


def test_every_permutation_is_drawn_equally_often():
    generator, images, labels = seeded(1), torch.zeros(3, 1), torch.zeros(3, dtype=torch.long)
    draws = [tuple(mixup(images, labels, generator=generator).permutation.tolist()) for _ in range(1200)]
    counts = [draws.count(permutation) for permutation in set(draws)]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 0.01


def test_mixup_draws_from_the_generator_alone():
    images, labels = torch.rand(16, 3), torch.arange(16)
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    first, second = mixup(images, labels, generator=seeded(5)), mixup(images, labels, generator=seeded(5))
    assert first.lam == second.lam and torch.equal(first.permutation, second.permutation)
    assert random.getstate() == python_state and torch.equal(torch.get_rng_state(), torch_state)
    assert mixup(images, labels, generator=seeded(6)).lam != first.lam


def test_mixup_without_generator_follows_torchs_seed():
    images, labels = torch.rand(16, 3), torch.arange(16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        first, next_one = mixup(images, labels), mixup(images, labels)
        torch.manual_seed(7)
        again = mixup(images, labels)
    assert again.lam == first.lam != next_one.lam
    assert torch.equal(again.images, first.images)


def test_mixup_leaves_its_inputs_alone_and_keeps_their_dtype():
    images, labels = torch.rand(4, 3).half(), torch.arange(4)
    before = images.clone()
    mixed = mixup(images, labels, generator=seeded(0))
    assert torch.equal(images, before) and torch.equal(labels, torch.arange(4))
    assert mixed.images.dtype == torch.float16


# --- Cross-entropy of mixed labels ---


def mixed_ce_by_hand(logits, labels, permuted_labels, lam):
    """Per sample: cross-entropy with the soft label lam onehot(y) + (1 - lam) onehot(y')."""
    values = []
    for z, y, partner in zip(logits.numpy(), labels.tolist(), permuted_labels.tolist(), strict=True):
        soft_label = np.zeros(len(z))
        soft_label[y] += lam
        soft_label[partner] += 1 - lam
        values.append(-(soft_label * log_softmax(z)).sum())
    return np.array(values)


@given(batches, lams)
def test_mixup_cross_entropy_is_cross_entropy_with_the_mixed_label(batch, lam):
    logits, _, labels, permuted = draw(batch)
    expected = mixed_ce_by_hand(logits, labels, permuted, lam)
    assert mixup_cross_entropy(logits, labels, permuted, lam).item() == pytest.approx(expected.mean(), **EXACT)
    per_sample = mixup_cross_entropy(logits, labels, permuted, lam, reduction="none")
    assert per_sample.numpy() == pytest.approx(expected, **EXACT)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_mixup_cross_entropy_takes_labels_of_any_integer_dtype(dtype):
    logits, _, labels, permuted = draw((5, 7, 0))
    expected = mixup_cross_entropy(logits, labels, permuted, 0.3)
    assert torch.equal(mixup_cross_entropy(logits, labels.to(dtype), permuted.to(dtype), 0.3), expected)


# --- STKD ---


@given(batches, lams, temperatures, st.floats(0, 1))
def test_stkd_is_its_formula(batch, lam, T, weight):
    student, teacher, labels, permuted = draw(batch)
    ce = mixed_ce_by_hand(student, labels, permuted, lam)
    p_s, p_t = softmax(student.numpy() / T, axis=1), softmax(teacher.numpy() / T, axis=1)
    expected = (1 - weight) * ce + weight * T**2 * rel_entr(p_t, p_s).sum(axis=1)
    assert stkd_loss(student, teacher, labels, permuted, lam, T, weight).item() == pytest.approx(
        expected.mean(), **EXACT
    )
    per_sample = stkd_loss(student, teacher, labels, permuted, lam, T, weight, reduction="none")
    assert per_sample.numpy() == pytest.approx(expected, **EXACT)


@given(batches, temperatures, st.floats(0, 1))
def test_stkd_at_lam_1_is_plain_kd_exactly(batch, T, weight):
    student, teacher, labels, permuted = draw(batch)
    ce = torch.nn.functional.cross_entropy(student, labels)
    plain = (1 - weight) * ce + weight * kd_loss(student, teacher, T)
    for lam in (1, 1.0, torch.tensor(1.0)):
        assert stkd_loss(student, teacher, labels, permuted, lam, T, weight).item() == pytest.approx(
            plain.item(), **EXACT
        )
    assert torch.equal(stkd_loss(student, teacher, labels, permuted, 1.0, T, weight=1.0), kd_loss(student, teacher, T))


@given(batches, lams)
def test_swapping_the_two_labels_and_lam_changes_nothing(batch, lam):
    student, teacher, labels, permuted = draw(batch)
    value = stkd_loss(student, teacher, labels, permuted, lam).item()
    assert stkd_loss(student, teacher, permuted, labels, 1 - lam).item() == pytest.approx(value, **EXACT)


def test_lam_may_be_a_tensor():
    student, teacher, labels, permuted = draw((4, 5, 0))
    as_number = stkd_loss(student, teacher, labels, permuted, 0.3).item()
    as_tensor = stkd_loss(student, teacher, labels, permuted, torch.tensor(0.3, dtype=torch.float64))
    assert as_tensor.item() == pytest.approx(as_number, **EXACT)
    assert as_tensor.dim() == 0


# --- The other target ---


@given(batches, lams, temperatures)
def test_interpolated_logits_blend_the_two_probabilities(batch, lam, T):
    own, partner, _, _ = draw(batch)
    expected = lam * softmax(own.numpy() / T, axis=1) + (1 - lam) * softmax(partner.numpy() / T, axis=1)
    for weight in (lam, torch.tensor(lam, dtype=torch.float64)):
        blended = interpolated_logits(own, partner, weight, T)
        assert softmax(blended.numpy() / T, axis=1) == pytest.approx(expected, **EXACT)


@pytest.mark.parametrize("as_lam", [float, torch.tensor])
def test_interpolated_logits_at_the_ends_are_one_of_the_two_answers(as_lam):
    own, partner, _, _ = draw((4, 5, 0))
    assert kd_loss(interpolated_logits(own, partner, as_lam(1.0)), own).item() == pytest.approx(0, abs=1e-12)
    assert kd_loss(interpolated_logits(own, partner, as_lam(0.0)), partner).item() == pytest.approx(0, abs=1e-12)
