"""KD, DKD and logit standardisation against their formulas, written out with numpy and scipy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax

from kdtutor.losses import dkd_loss, kd_loss, standardize_logits

EXACT = dict(rel=1e-9, abs=1e-12)
batches = st.tuples(st.integers(1, 6), st.integers(2, 12), st.integers(0, 2**32 - 1))  # B, C, seed
temperatures = st.floats(0.3, 30)


def draw_logits(batch):
    B, C, seed = batch
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(0, 3, (B, C))), torch.from_numpy(rng.normal(0, 3, (B, C)))


def kd_by_hand(student, teacher, T):
    """Per sample: T^2 sum_c p_t log(p_t / p_s)."""
    return np.array(
        [T**2 * rel_entr(softmax(t / T), softmax(s / T)).sum() for s, t in zip(student, teacher, strict=True)]
    )


# --- KD ---


@given(batches, temperatures)
def test_kd_is_its_formula(batch, T):
    student, teacher = draw_logits(batch)
    expected = kd_by_hand(student.numpy(), teacher.numpy(), T)
    assert kd_loss(student, teacher, T).item() == pytest.approx(expected.mean(), **EXACT)
    assert kd_loss(student, teacher, T, reduction="none").numpy() == pytest.approx(expected, **EXACT)


def test_kd_of_numbers_worked_by_hand():
    # At T = 2 the teacher's logits (2 log 3, 0) are the probabilities (3/4, 1/4), the student's are (1/2, 1/2).
    teacher = torch.tensor([[2 * np.log(3), 0.0]], dtype=torch.float64)
    student = torch.zeros(1, 2, dtype=torch.float64)
    expected = 4 * (0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5))
    assert kd_loss(student, teacher, temperature=2).item() == pytest.approx(expected, **EXACT)


def test_kd_default_temperature_is_4():
    student, teacher = draw_logits((5, 7, 0))
    assert kd_loss(student, teacher).item() == pytest.approx(
        kd_by_hand(student.numpy(), teacher.numpy(), 4).mean(), **EXACT
    )


@given(batches, temperatures)
def test_kd_gradient_is_T_over_B_times_difference_of_probabilities(batch, T):
    student, teacher = draw_logits(batch)
    (grad,) = torch.autograd.grad(kd_loss(student.requires_grad_(), teacher, T), student)
    p_s, p_t = softmax(student.detach().numpy() / T, axis=1), softmax(teacher.numpy() / T, axis=1)
    assert grad.numpy() == pytest.approx(T / len(student) * (p_s - p_t), **EXACT)


def test_kd_gradient_at_high_temperature_is_the_difference_of_centred_logits():
    student, teacher = draw_logits((6, 10, 1))
    student, teacher = (z - z.mean(dim=1, keepdim=True) for z in (student, teacher))
    (grad,) = torch.autograd.grad(kd_loss(student.requires_grad_(), teacher, temperature=1e5), student)
    assert grad.numpy() == pytest.approx(((student.detach() - teacher) / student.numel()).numpy(), rel=1e-3, abs=1e-6)


@given(batches, temperatures, st.floats(-100, 100))
def test_kd_does_not_see_a_constant_added_to_a_row(batch, T, constant):
    student, teacher = draw_logits(batch)
    shifts = constant * torch.arange(1, len(student) + 1)[:, None]  # another constant for each row
    assert kd_loss(student + shifts, teacher - 2 * shifts, T).item() == pytest.approx(
        kd_loss(student, teacher, T).item(), rel=1e-6, abs=1e-9
    )


@given(batches, temperatures)
def test_kd_is_zero_only_where_logits_agree_up_to_a_constant(batch, T):
    student, teacher = draw_logits(batch)
    assert kd_loss(teacher + 5, teacher, T).item() == pytest.approx(0, abs=1e-12)
    assert kd_loss(student, teacher, T).item() > 0


@given(batches, temperatures)
def test_kd_does_not_depend_on_the_order_of_samples_or_classes(batch, T):
    student, teacher = draw_logits(batch)
    rng = np.random.default_rng(batch[2])
    samples, classes = rng.permutation(batch[0]), rng.permutation(batch[1])
    shuffled = kd_loss(student[samples][:, classes], teacher[samples][:, classes], T)
    assert shuffled.item() == pytest.approx(kd_loss(student, teacher, T).item(), **EXACT)


def test_kd_is_forward_divergence_with_the_teacher_first():
    student, teacher = draw_logits((4, 5, 2))
    assert kd_loss(student, teacher).item() != pytest.approx(kd_loss(teacher, student).item(), rel=1e-3)


@pytest.mark.parametrize("factor", [2, 3])
def test_kd_scales_as_T_squared_when_logits_grow_with_T(factor):
    student, teacher = draw_logits((4, 5, 3))
    scaled = kd_loss(factor * student, factor * teacher, temperature=factor * 4)
    assert scaled.item() == pytest.approx(factor**2 * kd_loss(student, teacher, 4).item(), **EXACT)


# --- DKD ---


def dkd_by_hand(student, teacher, labels, alpha, beta, T):
    """Per sample, from probabilities: the binary part, and the part among the other classes renormalised."""
    values = []
    for s, t, y, weight in zip(student, teacher, labels, np.broadcast_to(beta, len(labels)), strict=True):
        p_s, p_t = softmax(s / T), softmax(t / T)
        binary = rel_entr([p_t[y], 1 - p_t[y]], [p_s[y], 1 - p_s[y]]).sum()
        others_s, others_t = np.delete(p_s, y), np.delete(p_t, y)
        among_others = rel_entr(others_t / others_t.sum(), others_s / others_s.sum()).sum()
        values.append(T**2 * (alpha * binary + weight * among_others))
    return np.array(values)


def draw_labelled(batch):
    B, C, seed = batch
    return *draw_logits(batch), torch.from_numpy(np.random.default_rng(seed + 1).integers(0, C, B))


wide_batches = st.tuples(st.integers(1, 6), st.integers(3, 12), st.integers(0, 2**32 - 1))


@given(wide_batches, st.floats(1, 10), st.floats(0, 3), st.floats(0, 10))
def test_dkd_is_its_formula(batch, T, alpha, beta):
    student, teacher, labels = draw_labelled(batch)
    expected = dkd_by_hand(student.numpy(), teacher.numpy(), labels.numpy(), alpha, beta, T)
    # Taking p_target away from 1 costs the definition a few digits, hence 1e-6.
    assert dkd_loss(student, teacher, labels, alpha, beta, T).item() == pytest.approx(
        expected.mean(), rel=1e-6, abs=1e-9
    )
    per_sample = dkd_loss(student, teacher, labels, alpha, beta, T, reduction="none")
    assert per_sample.numpy() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_dkd_defaults_are_the_papers():
    student, teacher, labels = draw_labelled((5, 7, 0))
    expected = dkd_by_hand(student.numpy(), teacher.numpy(), labels.numpy(), alpha=1, beta=8, T=4).mean()
    assert dkd_loss(student, teacher, labels).item() == pytest.approx(expected, rel=1e-9)


@given(wide_batches, st.floats(1, 10))
def test_dkd_with_beta_the_teachers_doubt_is_kd(batch, T):
    student, teacher, labels = draw_labelled(batch)
    doubt = 1 - softmax(teacher.numpy() / T, axis=1)[np.arange(len(labels)), labels]
    per_sample = [
        dkd_loss(student[[b]], teacher[[b]], labels[[b]], 1.0, float(doubt[b]), T).item() for b in range(len(labels))
    ]
    assert np.mean(per_sample) == pytest.approx(kd_loss(student, teacher, T).item(), rel=1e-6, abs=1e-9)


@given(wide_batches)
def test_dkd_invariances(batch):
    student, teacher, labels = draw_labelled(batch)
    value = dkd_loss(student, teacher, labels).item()
    assert dkd_loss(student + 7, teacher - 3, labels).item() == pytest.approx(value, rel=1e-9, abs=1e-10)
    assert dkd_loss(teacher + 7, teacher, labels).item() == pytest.approx(0, abs=1e-10)
    rng = np.random.default_rng(batch[2])
    samples, classes = torch.from_numpy(rng.permutation(batch[0])), torch.from_numpy(rng.permutation(batch[1]))
    moved_labels = classes.argsort()[labels[samples]]
    moved = dkd_loss(student[samples][:, classes], teacher[samples][:, classes], moved_labels)
    assert moved.item() == pytest.approx(value, rel=1e-9, abs=1e-10)


def test_dkd_parts_look_only_at_their_own_question():
    student, teacher, labels = draw_labelled((5, 7, 4))
    is_target = torch.nn.functional.one_hot(labels, 7).bool()
    # Raising the target's logit changes nothing among the others ...
    among_others = dkd_loss(student, teacher, labels, alpha=0.0)
    raised = dkd_loss(student + 3 * is_target, teacher, labels, alpha=0.0)
    assert raised.item() == pytest.approx(among_others.item(), **EXACT)
    # ... and shuffling the others changes nothing about the target.
    order = torch.arange(7).repeat(5, 1)
    for row, label in enumerate(labels.tolist()):
        others = [c for c in range(7) if c != label]
        order[row, others] = torch.tensor(others[::-1])
    binary = dkd_loss(student, teacher, labels, beta=0.0)
    assert dkd_loss(student.gather(1, order), teacher, labels, beta=0.0).item() == pytest.approx(binary.item(), **EXACT)


def test_dkd_of_two_classes_is_kd_when_beta_is_0():
    student, teacher, labels = draw_labelled((5, 2, 5))
    assert dkd_loss(student, teacher, labels, beta=0).item() == pytest.approx(kd_loss(student, teacher).item(), **EXACT)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_dkd_takes_labels_of_any_integer_dtype(dtype):
    student, teacher, labels = draw_labelled((5, 7, 0))
    assert torch.equal(dkd_loss(student, teacher, labels.to(dtype)), dkd_loss(student, teacher, labels))


# --- Logit standardisation ---


@given(batches)
def test_standardize_logits_is_its_formula(batch):
    logits, _ = draw_logits(batch)
    expected = [(row - row.mean()) / (1e-7 + row.std(ddof=1)) for row in logits.numpy()]
    assert standardize_logits(logits).numpy() == pytest.approx(np.array(expected), **EXACT)


@given(batches, st.floats(0.01, 100), st.floats(-100, 100))
def test_standardize_logits_leaves_only_the_shape_of_an_answer(batch, scale, shift):
    logits, _ = draw_logits(batch)
    assert standardize_logits(scale * logits + shift).numpy() == pytest.approx(
        standardize_logits(logits).numpy(), rel=1e-3, abs=1e-4
    )


def test_standardize_logits_of_a_constant_row_is_zero_without_gradient():
    logits = torch.tensor([[2.0, 2.0, 2.0], [1e4 / 3] * 3, [1.0, 2.0, 3.0]], requires_grad=True)
    z = standardize_logits(logits)
    (grad,) = torch.autograd.grad(z.square().sum() + z[:, 0].sum(), logits)
    assert z[:2].abs().max() == 0 and grad[:2].abs().max() == 0
    assert grad[2].abs().max() > 0


def test_standardize_logits_of_leading_dimensions():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(standardize_logits(logits).reshape(6, 5), standardize_logits(logits.reshape(6, 5)))
