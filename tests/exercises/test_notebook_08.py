"""Checks of notebook 08: right answers get all points, and each usual wrong answer its own hint."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from kdtutor import losses, methods
from kdtutor.audit import audit
from kdtutor.exercises import notebook_08


def test_evidence():
    assert notebook_08.check_evidence("d")
    assert len({notebook_08.check_evidence(letter).hint for letter in "abc"}) == 3
    assert "Answer with one letter" in notebook_08.check_evidence("").hint


def js(s, t, T, reduce=torch.mean):
    log_s, log_t = F.log_softmax(s / T, dim=1), F.log_softmax(t / T, dim=1)
    log_m = ((log_s.exp() + log_t.exp()) / 2).log()
    parts = F.kl_div(log_m, log_s.exp(), reduction="none") + F.kl_div(log_m, log_t.exp(), reduction="none")
    return T**2 * reduce(parts.sum(dim=1)) / 2


def divergence(p, q):
    return (p * (p / q).log()).sum(dim=1)


def middle_of(s, t, T):
    p, q = (s / T).softmax(1), (t / T).softmax(1)
    return p, q, (p + q) / 2


def to_middle(s, t, T):
    p, q, m = middle_of(s, t, T)
    return T**2 * (divergence(m, p) + divergence(m, q)).mean() / 2


def of_logits(s, t, T):
    p, q, _ = middle_of(s, t, T)
    m = ((s + t) / 2 / T).softmax(1)
    return T**2 * (divergence(p, m) + divergence(q, m)).mean() / 2


def symmetric(s, t, T):
    p, q, _ = middle_of(s, t, T)
    return T**2 * (divergence(p, q) + divergence(q, p)).mean() / 2


def test_js_loss():
    assert notebook_08.check_js_loss(js)
    wrong = (
        lambda s, t, T: js(s, t, T, reduce=lambda values: values),
        lambda s, t, T: js(s, t, T, reduce=torch.sum),
        lambda s, t, T: js(s, t, T) / s.shape[1],
        lambda s, t, T: js(s, t, T) / T**2,
        lambda s, t, T: 2 * js(s, t, T),
        lambda s, t, T: T**2 * js(s, t, 1.0),
        to_middle,
        of_logits,
        symmetric,
        losses.kd_loss,
    )
    results = [notebook_08.check_js_loss(function) for function in wrong]
    assert all(result.points == 0 for result in results)
    assert len({result.hint for result in results}) == len(wrong)
    assert "by up to" in results[-1].hint and all("by up to" not in result.hint for result in results[:-1])


def test_functions_that_cannot_run():
    def blank(student_logits, teacher_logits, temperature):
        raise NotImplementedError

    assert "not written yet" in notebook_08.check_js_loss(blank).hint
    assert "Pass the function itself" in notebook_08.check_js_loss(None).hint
    assert "return missing" in notebook_08.check_js_loss(lambda s, t, T: None).hint


@pytest.mark.parametrize("case", notebook_08.CASES)
def test_the_audit_names_each_case_as_the_exercise_does(case):
    report = audit(getattr(notebook_08, f"case_{case}"), kind="kd")
    assert [finding.code for finding in report.findings] == [notebook_08.CASES[case][0]]


def test_codes():
    right = {case: code for case, (code, _) in notebook_08.CASES.items()}
    assert notebook_08.check_codes(right)
    for case in right:
        result = notebook_08.check_codes({**right, case: "t_squared_missing"})
        assert result.points == 2 and f"Case {case}" in result.hint
    assert notebook_08.check_codes({}).points == 0 and notebook_08.check_codes("reverse_kl").points == 0


def test_weakness():
    assert notebook_08.check_weakness(1600)
    wrong = (100, 16, 400, 116, 1 / 1600, 6400)
    assert len({notebook_08.check_weakness(value).hint for value in wrong}) == len(wrong)
    for value in (*wrong, None, "very"):
        assert notebook_08.check_weakness(value).points == 0


def test_the_right_factor_is_right():
    s, t = torch.randn(2, 8, 100, dtype=torch.float64)
    s.requires_grad_()
    weak = F.kl_div((s / 4).log_softmax(1), (t / 4).softmax(1), reduction="none").mean()
    of_weak, of_kd = (torch.autograd.grad(loss, s)[0] for loss in (weak, losses.kd_loss(s, t, 4.0)))
    torch.testing.assert_close(1600 * of_weak, of_kd)


def own(s, t, T):
    return losses.kd_loss(s, t.detach(), T)


def compared(specs=("ce", "kd", "mine"), seeds=2):
    rows = [{"method": spec, "seed": seed} for spec in specs for seed in range(seeds)]
    return SimpleNamespace(students=pd.DataFrame(rows))


SAID = "about as good as KD"


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(methods.METHODS, "mine", methods.KD)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("loss", "name", "results", "expected", "missing"),
    [
        (own, "mine", compared(), "", "what you expected"),
        (lambda s, t, T: own(s, t, T) + (s.softmax(1).log() * 0).sum(), "mine", compared(), SAID, "finite"),
        (losses.kd_loss, "mine", compared(), SAID, ""),
        (lambda s, t, T: (s - t).square().mean(), "mine", compared(), SAID, "none for the teacher"),
        (lambda s, t, T: own(s, 2 * t, T), "mine", compared(), SAID, "least value"),
        (own, "mine", compared(("ce", "mine")), SAID, 'with "ce" and "kd"'),
        (own, "mine", compared(("ce", "kd")), SAID, 'with "ce" and "kd"'),
        (own, "mine", compared(seeds=1), SAID, "at least two seeds"),
    ],
)
def test_own_loss(loss, name, results, expected, missing):
    result = notebook_08.check_own_loss(loss, name, results, expected)
    assert result.points == (6 if missing else 7) and missing in result.hint
    assert notebook_08.check_own_loss(own, "mine", compared(), SAID)


def test_own_loss_must_have_a_name_of_its_own(registered):
    assert "methods.METHODS" in notebook_08.check_own_loss(own, "kd", compared(("ce", "kd")), SAID).hint
    assert "methods.METHODS" in notebook_08.check_own_loss(own, "nowhere", compared(), SAID).hint


def test_own_loss_left_empty():
    assert notebook_08.check_own_loss(None, "", None, "").points == 0
    assert notebook_08.check_own_loss("garbage", None, "garbage", None).points == 0
