"""SP against its formula in loops, its bounds and its invariances."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ortho_group
from sklearn.preprocessing import normalize

from kdtutor.losses import PRESETS, affinity_loss, sp_loss

EXACT = dict(rel=1e-9, abs=1e-12)
seeds = st.integers(0, 2**32 - 1)


def draw_features(seed, B=6, student_shape=(3, 2, 2), teacher_shape=(5, 2, 3)):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(B, *student_shape))), torch.from_numpy(
        rng.normal(size=(B, *teacher_shape))
    )


def sp_by_hand(student, teacher):
    """1 / B^2 sum over pairs, each entry found with loops over samples."""
    B = len(student)
    maps = []
    for features in (student.reshape(B, -1), teacher.reshape(B, -1)):
        gram = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in features] for a in features]
        maps.append([[entry / sum(e**2 for e in row) ** 0.5 for entry in row] for row in gram])
    return sum((maps[0][i][j] - maps[1][i][j]) ** 2 for i in range(B) for j in range(B)) / B**2


@given(seeds, st.integers(1, 7))
def test_sp_is_its_formula(seed, B):
    student, teacher = draw_features(seed, B)
    assert sp_loss(student, teacher).item() == pytest.approx(sp_by_hand(student.numpy(), teacher.numpy()), **EXACT)


def test_sp_against_scikit_learns_row_normalisation():
    student, teacher = draw_features(0, B=20)
    G_s, G_t = (normalize(q @ q.T, norm="l2") for q in (f.flatten(1).numpy() for f in (student, teacher)))
    assert sp_loss(student, teacher).item() == pytest.approx(np.linalg.norm(G_s - G_t) ** 2 / 400, **EXACT)


def test_sp_of_numbers_worked_by_hand():
    # Orthogonal samples for the student, one direction for the teacher: I against rows (1, 1) / sqrt(2).
    student, teacher = torch.eye(2, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    expected = (2 * (1 - 0.5**0.5) ** 2 + 2 * 0.5) / 4
    assert sp_loss(student, teacher).item() == pytest.approx(expected, **EXACT)


@given(seeds, st.integers(2, 7))
def test_sp_is_at_most_4_over_B_and_2_over_B_for_non_negative_features(seed, B):
    student, teacher = draw_features(seed, B)
    assert 0 <= sp_loss(student, teacher).item() <= 4 / B
    assert sp_loss(student.relu() + 1e-6, teacher.relu() + 1e-6).item() <= 2 / B


def test_sp_of_two_groups_against_one_is_2_over_B():
    B = 400
    two_groups = torch.ones(B, 1, dtype=torch.float64)
    two_groups[::2] = -1
    one_group = torch.ones(B, 1, dtype=torch.float64)
    # Entries are +-1 / sqrt(B), and half of them differ in sign: B^2 / 2 * (2 / sqrt(B))^2 / B^2.
    assert sp_loss(two_groups, one_group).item() == pytest.approx(2 / B, **EXACT)


@given(seeds, st.floats(0.01, 100), st.floats(0.01, 100))
def test_sp_does_not_see_rotation_or_scale_of_features(seed, student_scale, teacher_scale):
    student, teacher = (f.flatten(1) for f in draw_features(seed))
    value = sp_loss(student, teacher).item()
    rotation = torch.from_numpy(ortho_group.rvs(student.shape[1], random_state=seed))
    assert sp_loss(student @ rotation, teacher).item() == pytest.approx(value, **EXACT)
    assert sp_loss(student_scale * student, teacher_scale * teacher).item() == pytest.approx(value, **EXACT)
    assert sp_loss(student_scale * student @ rotation, student).item() == pytest.approx(0, abs=1e-12)


@given(seeds)
def test_sp_does_not_depend_on_the_order_of_samples(seed):
    student, teacher = draw_features(seed)
    order = np.random.default_rng(seed).permutation(len(student))
    assert sp_loss(student[order], teacher[order]).item() == pytest.approx(sp_loss(student, teacher).item(), **EXACT)


def test_sp_does_not_normalise_features_first():
    student, teacher = draw_features(0)
    student[0] *= 10  # a long feature vector counts for more: it would not in the cosine Gram
    assert sp_loss(student, teacher).item() == pytest.approx(sp_by_hand(student.numpy(), teacher.numpy()), **EXACT)
    assert sp_loss(student, teacher).item() != pytest.approx(
        affinity_loss(student, teacher, affinity="cosine").item(), rel=1e-3
    )


def test_sp_of_one_sample_is_zero_without_gradient():
    student, teacher = draw_features(0, B=1)
    loss = sp_loss(student.requires_grad_(), teacher)
    (grad,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert grad.abs().max().item() == pytest.approx(0, abs=1e-12)


def test_sp_dead_row_stays_zero():
    student, teacher = draw_features(0)
    student[2], teacher[4] = 0, 0
    G_s, G_t = (normalize(q @ q.T, norm="l2") for q in (f.flatten(1).numpy() for f in (student, teacher)))
    assert (G_s[2] == 0).all()
    loss = sp_loss(student.requires_grad_(), teacher)
    (grad,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(np.linalg.norm(G_s - G_t) ** 2 / 36, **EXACT)
    assert grad[2].abs().max() < 1e3, "a dead sample must not get a gradient of size 1 / eps"


def test_sp_is_a_cell_of_the_affinity_framework():
    student, teacher = draw_features(3)
    assert affinity_loss(student, teacher, **PRESETS["sp"]).item() == pytest.approx(
        sp_loss(student, teacher).item(), **EXACT
    )
    assert affinity_loss(student, teacher).item() == pytest.approx(sp_loss(student, teacher).item(), **EXACT)


def test_sp_in_half_precision_where_the_gram_would_overflow():
    student, teacher = draw_features(0, B=16, student_shape=(512,), teacher_shape=(256,))
    student, teacher = (300 * student).half(), (300 * teacher).half()
    with torch.autocast("cpu", torch.float16):
        value = sp_loss(student, teacher).item()
    assert value == pytest.approx(sp_loss(student.double(), teacher.double()).item(), rel=1e-5)
