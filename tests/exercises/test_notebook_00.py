"""Checks of notebook 00: right answers get all points, and each usual wrong answer its own hint."""

import pytest
import torch
from torch.nn import functional as F

from kdtutor.exercises import notebook_00


def blank(*arguments):
    raise NotImplementedError


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
