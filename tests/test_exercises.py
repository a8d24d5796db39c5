"""Exercise checks: right answers get all points, and each usual wrong answer its own hint."""

import math

import pytest
import torch
from torch.nn import functional as F

from kdtutor.exercises import Result, notebook_00, notebook_01
from kdtutor.exercises.engine import by_audit, by_choice, by_comparison, by_number, by_rubric


def blank(*arguments):
    raise NotImplementedError


# --- The engine ---


def test_result_is_true_with_all_points_only():
    assert Result(2, 2) and not Result(1, 2, "look")
    assert str(Result(2, 2)) == "✓ 2 of 2 points" and str(Result(1, 2, "look")) == "✗ 1 of 2 points. look"
    assert "&lt;b&gt;" in Result(0, 1, "<b>")._repr_html_()


def test_functions_that_cannot_run():
    def no_return(student_logits, teacher_logits, temperature):
        student_logits.sum()

    def broken(student_logits, teacher_logits, temperature):
        return student_logits @ teacher_logits

    for check in (notebook_01.check_kd_loss, notebook_00.check_softmax, notebook_00.check_kl, notebook_00.check_gram):
        result = check(blank)
        assert result.points == 0 and "not written yet" in result.hint
        assert "Pass the function itself" in check(3.0).hint
    assert "return missing" in notebook_01.check_kd_loss(no_return).hint
    assert "RuntimeError" in notebook_01.check_kd_loss(broken).hint
    assert "return missing" in notebook_00.check_softmax(lambda z, T: None).hint
    assert "ZeroDivisionError" in notebook_00.check_softmax(lambda z, T: z / 0 + 1 / 0).hint


def test_by_audit_falls_back_on_the_cause_and_counts_what_is_left():
    def mean_without_square(student_logits, teacher_logits, temperature):
        log_p = F.log_softmax(student_logits / temperature, 1)
        return F.kl_div(log_p, F.softmax(teacher_logits / temperature, 1), reduction="mean")

    result = by_audit(mean_without_square, "kd", partial={"mean_over_classes": 1, "t_squared_missing": 1})
    assert result.points == 0 and "1 more to find" in result.hint and "reduction='mean'" in result.hint


def test_by_comparison_tells_shape_from_value():
    double = lambda x: 2 * x  # noqa: E731
    inputs = [(torch.arange(3.0),)]
    assert by_comparison(double, double, inputs)
    assert "(1, 3)" in by_comparison(lambda x: 2 * x[None], double, inputs).hint
    assert "up to 2" in by_comparison(lambda x: x, double, inputs).hint
    assert by_comparison(lambda x: x, double, inputs, [(lambda x: x, "double it")]).hint == "double it"


def test_by_comparison_survives_a_function_that_writes_to_its_arguments():
    assert by_comparison(lambda x: x.mul_(2), lambda x: 2 * x, [(torch.arange(3.0),)])


def test_by_choice_and_by_number():
    assert by_choice(" B ", "b", {"a": "no"}) and by_choice("a", "b", {"a": "no"}).hint == "no"
    assert "a, b" in by_choice("z", "b", {"a": "no"}).hint
    assert by_number("4.01", 4, {}) and by_number(2, 4, {2.0: "half"}).hint == "half"
    assert "number" in by_number("four", 4, {}).hint and by_number(9, 4, {2.0: "half"}).hint
    assert not by_number(math.nan, 4, {})


def test_by_rubric():
    assert by_rubric([("one", True), ("two", True)])
    result = by_rubric([("one", True), ("two", False)])
    assert result.points == 1 and result.out_of == 2 and "two" in result.hint


# --- Notebook 00 ---


def test_row_shift():
    assert notebook_00.check_row_shift("c")
    assert len({notebook_00.check_row_shift(letter).hint for letter in "abd"}) == 3


def naive_softmax(z, T):
    e = (z / T).exp()
    return e / e.sum(1, keepdim=True)


SOFTMAX = [
    (lambda z, T: F.softmax(z / T, 1), 2, ""),
    (naive_softmax, 1, "overflows"),
    (lambda z, T: F.softmax(z / T, 0), 0, "columns"),
    (lambda z, T: F.softmax((z / T).flatten(), 0).view_as(z), 0, "All entries"),
    (lambda z, T: F.softmax(z * T, 1), 0, "sharper"),
    (lambda z, T: F.softmax(z, 1), 0, "not used"),
    (lambda z, T: F.softmax(z, 1) / T, 0, "do not sum to 1"),
    (lambda z, T: (z / T).exp(), 0, "exponentials"),
    (lambda z, T: F.log_softmax(z / T, 1), 0, "logarithms"),
    (lambda z, T: z, 0, "differ"),
]


def kl(p, q):
    return (p * (p.log() - q.log())).sum(1).mean()


KL = [
    (kl, 2, ""),
    (lambda p, q: F.kl_div(q.log(), p, reduction="batchmean"), 2, ""),
    (lambda p, q: kl(q, p), 0, "not symmetric"),
    (lambda p, q: F.kl_div(q.log(), p, reduction="none").mean(), 0, "number of classes"),
    (lambda p, q: F.kl_div(q.log(), p, reduction="sum"), 0, "summed"),
    (lambda p, q: (p * (p / q).log()).sum(1), 0, "each sample"),
    (lambda p, q: -kl(p, q), 0, "sign"),
    (lambda p, q: -(p * q.log()).sum(1).mean(), 0, "cross-entropy"),
    (lambda p, q: (p * (p - q)).sum(1).mean(), 0, "logarithms are missing"),
]

GRAM = [
    (lambda f: torch.einsum("ichw,jchw->ij", f, f), 2, ""),
    (lambda f: f.flatten(1).T @ f.flatten(1), 0, "relates features"),
    (lambda f: F.cosine_similarity(f.flatten(1)[:, None], f.flatten(1)[None], dim=2), 0, "cosines"),
    (lambda f: f.mean((2, 3)) @ f.mean((2, 3)).T, 0, "averaged"),
    (lambda f: (f.flatten(1)[:, None] - f.flatten(1)[None]).norm(dim=2), 0, "distances"),
]


@pytest.mark.parametrize(("answer", "points", "hint"), SOFTMAX)
def test_softmax(answer, points, hint):
    result = notebook_00.check_softmax(answer)
    assert result.points == points and hint in result.hint, str(result)


@pytest.mark.parametrize(("answer", "points", "hint"), KL)
def test_kl(answer, points, hint):
    result = notebook_00.check_kl(answer)
    assert result.points == points and hint in result.hint, str(result)


@pytest.mark.parametrize(("answer", "points", "hint"), GRAM)
def test_gram(answer, points, hint):
    result = notebook_00.check_gram(answer)
    assert result.points == points and hint in result.hint, str(result)


def step_with(teacher_mode=False, student_mode=True, zero=True, grad=False):
    def step(student, teacher, images, labels, optimizer):
        teacher.train(teacher_mode)
        student.train(student_mode)
        if zero:
            optimizer.zero_grad()
        with torch.set_grad_enabled(grad):
            teacher_logits = teacher(images)
        logits = student(images)
        loss = (logits - teacher_logits).square().mean() + F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        return loss

    return step


def test_step():
    assert notebook_00.check_step(step_with())
    assert notebook_00.check_step(notebook_00.broken_step).points == 0
    for mistake, hint in (
        ({"teacher_mode": True}, "eval mode"),
        ({"student_mode": False}, "train mode"),
        ({"zero": False}, "start from zero"),
    ):
        result = notebook_00.check_step(step_with(**mistake))
        assert result.points == 2 and hint in result.hint, str(result)
    assert "not written yet" in notebook_00.check_step(blank).hint
    assert "backward" in notebook_00.check_step(lambda *arguments: torch.zeros(())).hint
    assert "TypeError" in notebook_00.check_step(lambda: None).hint


def test_seeds():
    good = [0.81, 0.83, 0.82]
    assert notebook_00.check_seeds(good, {"mean": 0.82, "std": 0.01})
    assert "n - 1" in notebook_00.check_seeds(good, {"mean": 0.82, "std": 0.00816}).hint
    assert "three seeds" in notebook_00.check_seeds([0.8], {"mean": 0.8, "std": 0.0}).hint
    assert "between 0 and 1" in notebook_00.check_seeds([81, 83, 82], {"mean": 82, "std": 1}).hint
    assert "really differ" in notebook_00.check_seeds([0.8, 0.8, 0.8], {"mean": 0.8, "std": 0.0}).hint
    assert notebook_00.check_seeds([], {}).points == 0


# --- Notebook 01 ---


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
