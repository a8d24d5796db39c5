"""Checks of notebook 01: right answers get all points, and each usual wrong answer its own hint."""

import pytest
import torch
from torch.nn import functional as F

from kdtutor.exercises import notebook_01


def test_temperature_limit():
    assert notebook_01.check_temperature_limit("c")
    assert len({notebook_01.check_temperature_limit(letter).hint for letter in "abd"}) == 3


def kd(s, t, T, power=2, reduction="batchmean", dim=1, T_s=None, T_t=None):
    log_p, p = F.log_softmax(s / (T_s or T), dim), F.softmax(t / (T_t or T), dim)
    return T**power * F.kl_div(log_p, p, reduction=reduction)


KD = [
    (kd, 3, None),
    (lambda s, t, T: kd(s, t, T, reduction="mean"), 2, "mean_over_classes"),
    (lambda s, t, T: kd(s, t, T, reduction="sum"), 2, "summed_over_batch"),
    (lambda s, t, T: kd(s, t, T, reduction="sum") / 128, 2, "fixed_batch_size"),
    (lambda s, t, T: kd(s, t, T, power=0), 2, "t_squared_missing"),
    (lambda s, t, T: kd(s, t, T, power=1), 2, "t_once"),
    (lambda s, t, T: kd(t, s, T), 1, "reverse_kl"),
    (lambda s, t, T: kd(t, s.detach(), T), 0, "networks_swapped"),
    (lambda s, t, T: F.mse_loss(F.softmax(s / T, 1), F.softmax(t / T, 1)), 0, "mse_of_softmaxes"),
    (lambda s, t, T: F.mse_loss(s, t), 0, "mse_of_logits"),
    (
        lambda s, t, T: F.kl_div(F.softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean"),
        0,
        "student_log_missing",
    ),
    (
        lambda s, t, T: F.kl_div(F.log_softmax(s / T, 1), F.log_softmax(t / T, 1), reduction="batchmean"),
        0,
        "teacher_log_unexpected",
    ),
    (lambda s, t, T: kd(s, t, T, dim=0), 0, "softmax_over_batch"),
    (lambda s, t, T: kd(s, t, T, T_s=1.0), 0, "student_not_softened"),
    (lambda s, t, T: kd(s, t, T, T_t=1.0), 0, "teacher_not_softened"),
    (lambda s, t, T: kd(s, t, 1.0), 0, "temperature_fixed_at_1"),
    (lambda s, t, T: kd(s, t, T, T_s=1 / T, T_t=1 / T), 0, "temperature_inverted"),
    (lambda s, t, T: -kd(s, t, T), 0, "wrong_sign"),
    (lambda s, t, T: kd(s.detach(), t.detach(), T), 0, "no_gradient"),
]


@pytest.mark.parametrize(("answer", "points", "code"), KD)
def test_kd_loss(answer, points, code):
    result = notebook_01.check_kd_loss(answer)
    assert result.points == points, str(result)
    assert result.hint == ("" if code is None else notebook_01.HINTS[code])


def test_every_hint_is_reached_and_unique():
    assert {code for _, _, code in KD if code} == set(notebook_01.HINTS)
    assert len(set(notebook_01.HINTS.values())) == len(notebook_01.HINTS)


def test_diagnosis_fits_the_broken_loss():
    classes, T = 7, 3.0
    s = torch.randn(4, classes, dtype=torch.float64)
    t = torch.randn(4, classes, dtype=torch.float64)
    factor = float(kd(s, t, T) / notebook_01.broken_kd_loss(s, t, T))
    assert notebook_01.check_diagnosis(factor, classes, T)
    hints = {notebook_01.check_diagnosis(x, classes, T).hint for x in (classes, T**2, classes * T, 1 / factor, 5.0)}
    assert len(hints) == 5


def test_mended():
    assert notebook_01.check_mended(kd)
    assert notebook_01.check_mended(notebook_01.broken_kd_loss).points == 0
    assert notebook_01.check_mended(lambda s, t, T: kd(s, t, T, power=0)).points == 1


def test_gradient_ratio_is_what_the_loss_does():
    def size(T):
        s = torch.tensor([[1.0, -1.0, 0.5]], dtype=torch.float64, requires_grad=True)
        kd(s, torch.tensor([[0.2, 0.7, -0.4]], dtype=torch.float64), T, power=0).backward()
        return float(s.grad.norm())

    assert notebook_01.check_gradient_ratio(size(200.0) / size(400.0))
    assert len({notebook_01.check_gradient_ratio(wrong).hint for wrong in (2, 0.25, 1, 16)}) == 4


def test_temperatures():
    good = {1: [0.8, 0.81], 2: [0.82, 0.83], 4: [0.84, 0.85], 8: [0.83, 0.84]}
    assert notebook_01.check_temperatures(good, 4, 1)
    assert "best mean" in notebook_01.check_temperatures(good, 8, 1).hint
    assert "looked at once" in notebook_01.check_temperatures(good, 4, 3).hint
    assert "four temperatures" in notebook_01.check_temperatures({1: [0.8, 0.8]}, 1, 1).hint
    assert "T = 1" in notebook_01.check_temperatures({2 * T: v for T, v in good.items()}, 8, 1).hint
    assert "two seeds" in notebook_01.check_temperatures({T: v[:1] for T, v in good.items()}, 4, 1).hint
    assert "same number" in notebook_01.check_temperatures({**good, 1: [0.8] * 3}, 4, 1).hint
    assert notebook_01.check_temperatures({}, 4, 0).points == 0
