"""Checks of notebook 06: right answers get all points, and each usual wrong answer its own hint."""

import pytest
import torch
from torch.nn import functional as F

from kdtutor import losses
from kdtutor.exercises import notebook_06


def test_exact():
    assert notebook_06.check_exact(96)
    wrong = (10, 6000, 600, 960)
    assert len({notebook_06.check_exact(value).hint for value in wrong}) == len(wrong)
    for value in (*wrong, None, "many"):
        assert notebook_06.check_exact(value).points == 0


def test_the_right_number_is_right():
    generator = torch.Generator().manual_seed(0)
    x, m = torch.randn(200, 96, generator=generator).double(), torch.randn(96, 96, generator=generator).double()
    for count, exact in ((96, True), (95, False)):
        cross, core = losses.nystrom_kernel(x, m[:count])
        assert torch.allclose(cross @ core @ cross.T, x @ x.T, atol=1e-6) == exact


def transfer(f_s, f_t, m_s, m_t, error=F.smooth_l1_loss, norm=torch.linalg.matrix_norm):
    S, T = f_s @ m_s.T, f_t @ m_t.T
    return error(S, T, reduction="sum") / norm(T)


def unit(rows):
    return F.normalize(rows, dim=1)


LOSSES = [
    (transfer, 3, None),
    (lambda a, b, c, d: losses.kernel_transfer_loss(a, b, c, d), 3, None),
    (lambda a, b, c, d: transfer(a, b, c, d, norm=lambda T: 1.0), 2, "not_divided"),
    (lambda a, b, c, d: transfer(a, b, c, d, norm=lambda T: torch.linalg.matrix_norm(T, 2)), 2,
     "divided_by_spectral_norm"),
    (lambda a, b, c, d: transfer(a, b, c, d) / (len(a) * len(c)), 0, "divided_by_batch"),
    (lambda a, b, c, d: transfer(a, b, c, d) / len(c), 2, "mean_over_entries"),
    (lambda a, b, c, d: transfer(a, b, c, d) / len(a), 2, "divided_by_batch"),
    (lambda a, b, c, d: transfer(a, b, c, d, norm=lambda T: torch.linalg.matrix_norm(a @ c.T)), 0,
     "divided_by_student"),
    (lambda a, b, c, d: transfer(a, b, c, d, error=F.mse_loss), 0, "squared_error"),
    (lambda a, b, c, d: transfer(a, b, c, d, error=F.l1_loss), 0, "absolute_error"),
    (lambda a, b, c, d: transfer(unit(a), unit(b), unit(c), unit(d)), 0, "features_normalized"),
    (lambda a, b, c, d: transfer(a, b, c.roll(1, 0), d), 0, "landmarks_rolled"),
    (lambda a, b, c, d: transfer(b, a.detach(), d, c), 0, "networks_swapped"),
    (lambda a, b, c, d: -transfer(a, b, c, d), 0, "wrong_sign"),
    (lambda a, b, c, d: transfer(a, b, c, d).detach(), 0, "no_gradient"),
    (lambda a, b, c, d: losses.kernel_transfer_loss(a, b, c, d, scale_free=True), 3, None),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "points", "code"), LOSSES)
def test_kernel_loss(loss, points, code):
    result = notebook_06.check_kernel_loss(loss)
    assert result.points == points, result
    if code is None:
        assert result
    else:
        assert notebook_06.HINTS[code] in result.hint


def test_every_hint_is_tried():
    assert {code for _, _, code in LOSSES} - {None} == set(notebook_06.HINTS)
    assert len(set(notebook_06.HINTS.values())) == len(notebook_06.HINTS)


def test_functions_that_cannot_run():
    def blank(*arguments):
        raise NotImplementedError

    for check in (notebook_06.check_kernel_loss, notebook_06.check_centers):
        assert "not written yet" in check(blank).hint and check(blank).points == 0
        assert "Pass the function itself" in check(None).hint
        assert "return missing" in check(lambda *arguments: None).hint


def test_symptom():
    assert notebook_06.check_symptom("b")
    assert len({notebook_06.check_symptom(letter).hint for letter in "acd"}) == 3
    assert notebook_06.check_symptom("").points == 0


def test_the_right_symptom_is_right():
    features, labels = torch.randn(640, 5), torch.arange(640) % 100
    centers = notebook_06.broken_centers(features, labels, 100, 64)
    assert losses.kernel_transfer_loss(features, features, centers, centers).isnan()


def test_centers():
    def right(features, labels, num_classes, batch_size):
        rows = [[f for f, y in zip(features, labels, strict=True) if int(y) == c] for c in range(num_classes)]
        return torch.stack([sum(own) / len(own) if own else torch.zeros(features.shape[1]) for own in rows])

    assert notebook_06.check_centers(right)
    wrong = (
        notebook_06.broken_centers, notebook_06._absent_counts_as_zero, notebook_06._mean_of_batch_means,
        notebook_06._equal_classes, notebook_06._sums, notebook_06._absent_is_nan,
    )  # fmt: skip
    results = [notebook_06.check_centers(function) for function in wrong]
    assert all(result.points == 0 for result in results)
    assert len({result.hint for result in results}) == len(wrong)
    assert "by up to" in notebook_06.check_centers(lambda f, y, c, b: torch.ones(c, 3)).hint
    assert "shape" in notebook_06.check_centers(lambda f, y, c, b: torch.ones(2)).hint


def test_weight():
    assert notebook_06.check_weight(0.253)
    wrong = (0.04, 1.6, 0.00632, 0.001, 0.08, 0.1265)
    assert len({notebook_06.check_weight(value).hint for value in wrong}) == len(wrong)
    for value in (*wrong, None, "more"):
        assert notebook_06.check_weight(value).points == 0


def test_the_right_weight_is_right():
    generator = torch.Generator().manual_seed(0)
    found = []
    for B, K in ((256, 100), (64, 10)):
        a, b, c, d = (torch.randn(n, 60, generator=generator) for n in (B, B, K, K))
        found.append(float(losses.kernel_transfer_loss(a, b, c, d)))
    assert 0.04 * found[0] / found[1] == pytest.approx(0.04 * 40**0.5, rel=0.1)


CELL = {"class centres": 0.02, "best": 0.01, "random": [0.1, 0.2, 0.3]}
WHOLE = {"pixels": CELL, "untrained": CELL, "teacher": CELL}
SAID = "only the teacher has good class centres"


@pytest.mark.parametrize(
    ("errors", "expected", "missing"),
    [
        (WHOLE, "", "what you expected"),
        ({"pixels": CELL, "teacher": CELL}, SAID, "at least three sources"),
        ({"a": CELL, "b": CELL, "c": CELL}, SAID, "raw pixels"),
        ({**WHOLE, "pixels": {**CELL, "random": [0.1, 0.2]}}, SAID, "at least three random draws"),
        ({**WHOLE, "pixels": {**CELL, "random": [0.1, 0.2, 30.0]}}, SAID, "between 0 and 1"),
        ({**WHOLE, "pixels": {**CELL, "best": 0.05}}, SAID, "below the best rank"),
    ],
)
def test_sources(errors, expected, missing):
    result = notebook_06.check_sources(errors, expected)
    assert result.points == 6 and missing in result.hint
    assert notebook_06.check_sources(WHOLE, SAID)


def test_sources_left_empty_or_in_part():
    assert notebook_06.check_sources({}, "").points == 0
    assert "for each" in notebook_06.check_sources({**WHOLE, "pixels": {"best": 0.1}}, SAID).hint
