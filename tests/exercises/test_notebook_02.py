"""Checks of notebook 02: right answers get all points, and each usual wrong answer its own hint."""

import pytest
import torch
from torch.nn import functional as F

from kdtutor import losses
from kdtutor.exercises import notebook_02


def test_blind_spot():
    assert notebook_02.check_blind_spot("c")
    assert len({notebook_02.check_blind_spot(letter).hint for letter in "abd"}) == 3
    assert "Answer with one letter" in notebook_02.check_blind_spot("").hint


def test_the_right_choice_is_right():
    f_s, f_t, R = torch.randn(6, 4), torch.randn(6, 5), torch.linalg.qr(torch.randn(4, 4))[0]
    loss = losses.sp_loss(f_s, f_t)
    torch.testing.assert_close(losses.sp_loss(7 * f_s @ R, f_t), loss, rtol=1e-4, atol=1e-6)
    for changed in (f_s + torch.randn(4), F.normalize(f_s, dim=1), f_s[torch.tensor([1, 0, 2, 3, 5, 4])]):
        assert abs(float(losses.sp_loss(changed, f_t) - loss)) > 1e-4


def gram(f):
    return f.flatten(1) @ f.flatten(1).T


def sp(s, t, p=2):
    return (F.normalize(gram(s), p=p, dim=1) - F.normalize(gram(t), p=p, dim=1)).square().mean()


def pooled(f):
    return f.flatten(2).mean(2) if f.dim() > 2 else f


def channel_gram(f):
    return F.normalize(f.flatten(1).T @ f.flatten(1))


SP = [
    (sp, 3, None),
    (lambda s, t: torch.linalg.norm(F.normalize(gram(s)) - F.normalize(gram(t))) ** 2 / len(s) ** 2, 3, None),
    (lambda s, t: sp(s, t, p=1), 2, "rows_l1"),
    (lambda s, t: len(s) ** 2 * sp(s, t), 2, "summed_over_pairs"),
    (lambda s, t: len(s) * sp(s, t), 2, "divided_by_batch_once"),
    (lambda s, t: sp(s, t) / len(s) ** 2, 2, "batch_divided_twice"),
    (lambda s, t: losses.affinity_loss(s, t, "cosine", "row_l2", "mse"), 1, "features_normalized"),
    (lambda s, t: losses.affinity_loss(s, t, "cosine", "none", "mse"), 1, "features_normalized"),
    (lambda s, t: sp(pooled(s), pooled(t)), 1, "pooled_first"),
    (lambda s, t: sp(F.normalize(s, dim=1), F.normalize(t, dim=1)), 0, "channels_normalized"),
    (lambda s, t: (channel_gram(s) - channel_gram(t)).square().mean(), 0, "features_not_samples"),
    (lambda s, t: (gram(s) - F.normalize(gram(t))).square().mean(), 0, "student_rows_not_normalized"),
    (lambda s, t: sp(t, s.detach()), 0, "networks_swapped"),
    (lambda s, t: -sp(s, t), 0, "wrong_sign"),
    (lambda s, t: sp(s, t).detach(), 0, "no_gradient"),
]


@pytest.mark.parametrize(("loss", "points", "code"), SP)
def test_sp_loss(loss, points, code):
    result = notebook_02.check_sp_loss(loss)
    assert result.points == points, result
    if code is None:
        assert result
    else:
        assert notebook_02.HINTS[code] in result.hint


def test_every_hint_is_tried():
    assert {code for _, _, code in SP} - {None} == set(notebook_02.HINTS)
    assert len(set(notebook_02.HINTS.values())) == len(notebook_02.HINTS)


def test_functions_that_cannot_run():
    def blank(student_features, teacher_features):
        raise NotImplementedError

    for check in (notebook_02.check_sp_loss, notebook_02.check_mended):
        assert "not written yet" in check(blank).hint and check(blank).points == 0
        assert "Pass the function itself" in check(None).hint
        assert "return missing" in check(lambda s, t: None).hint


@pytest.mark.parametrize("batch_size", [16, 64])
def test_the_factor_of_the_broken_loss(batch_size):
    generator = torch.Generator().manual_seed(0)
    f_s, f_t = (10 + torch.randn(batch_size, 50, generator=generator) for _ in range(2))  # all about equally alike
    factor = float(losses.sp_loss(f_s, f_t) / notebook_02.broken_sp_loss(f_s, f_t))
    assert factor == pytest.approx(batch_size, rel=0.05)
    assert notebook_02.check_diagnosis(batch_size, batch_size)


def test_diagnosis_and_mending():
    wrong = (8, 4096, 1 / 64, 1)
    assert len({notebook_02.check_diagnosis(value, 64).hint for value in wrong}) == len(wrong)
    for value in (*wrong, None, "many", float("nan")):
        assert notebook_02.check_diagnosis(value, 64).points == 0
    assert notebook_02.check_mended(sp)
    result = notebook_02.check_mended(notebook_02.broken_sp_loss)
    assert result.points == 0 and notebook_02.HINTS["rows_l1"] in result.hint


def test_weight():
    assert notebook_02.check_weight(750)
    wrong = (12000, 3000, 187.5, 1500)
    assert len({notebook_02.check_weight(value).hint for value in wrong}) == len(wrong)
    for value in (*wrong, None, "less"):
        assert notebook_02.check_weight(value).points == 0


WHOLE = {count: {"untrained": [0.3, 0.4, 0.2], "SP": [0.6, 0.7, 0.5]} for count in (1, 20, 600)}
SAID = "one label per class is enough"
SHORT = {count: {"untrained": [0.3, 0.4], "SP": [0.6, 0.7]} for count in (1, 20, 600)}
UNEVEN = {**WHOLE, 20: {"untrained": [0.3] * 4, "SP": [0.5] * 3}}
PERCENT = {**WHOLE, 20: {"untrained": [30, 40, 50], "SP": [50, 60, 70]}}


@pytest.mark.parametrize(
    ("accuracies", "expected", "missing"),
    [
        (WHOLE, "", "what you expected"),
        ({1: WHOLE[1], 600: WHOLE[600]}, SAID, "at least three numbers"),
        ({10: WHOLE[1], 20: WHOLE[20], 600: WHOLE[600]}, SAID, "5 or fewer"),
        ({**WHOLE, 600: {"SP": [0.8, 0.8, 0.8]}}, SAID, "both students"),
        (SHORT, SAID, "at least three draws"),
        (UNEVEN, SAID, "the same number of draws"),
        (PERCENT, SAID, "between 0 and 1"),
    ],
)
def test_few_labels(accuracies, expected, missing):
    result = notebook_02.check_few_labels(accuracies, expected)
    assert result.points == 6 and missing in result.hint
    assert notebook_02.check_few_labels(WHOLE, SAID)


def test_few_labels_left_empty():
    assert notebook_02.check_few_labels({}, "").points == 0
