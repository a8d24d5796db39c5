"""Checks of notebook 05: right answers get all points, and each usual wrong answer its own hint."""

import pytest
import torch

from kdtutor import losses
from kdtutor.exercises import notebook_05


@pytest.mark.parametrize(
    ("check", "right", "wrong"), [(notebook_05.check_blind_spot, "b", "acd"), (notebook_05.check_diagnosis, "b", "acd")]
)
def test_choices(check, right, wrong):
    assert check(right)
    assert len({check(letter).hint for letter in wrong}) == 3
    assert "Answer with one letter" in check("").hint


def test_the_right_choices_are_right():
    z, t = torch.randn(2, 5, 10, dtype=torch.float64)
    true = lambda a: losses.spearman_correlation(a, t, 1e-4)  # noqa: E731
    torch.testing.assert_close(true(z.exp()), true(z), atol=1e-3, rtol=0)
    assert (losses.pearson_correlation(z.exp(), t) - losses.pearson_correlation(z, t)).abs().max() > 0.01
    p_s, p_t = z.softmax(dim=1), t.softmax(dim=1)
    torch.testing.assert_close(
        notebook_05.broken_spearman_loss(z, t), 1 - losses.pearson_correlation(p_s, p_t).mean(), rtol=1e-5, atol=1e-6
    )


def rho(a, b, dim=1, center=True):
    a, b = (x - center * x.mean(dim, keepdim=True) for x in (a, b))
    return (a * b).sum(dim) / (a.norm(dim=dim) * b.norm(dim=dim))


def standard(z):
    return (z - z.mean(1, keepdim=True)) / z.std(1, correction=0, keepdim=True)


PEARSON = [
    (lambda s, t: 1 - rho(s, t).mean(), 3, None),
    (lambda s, t: (standard(s) - standard(t)).square().mean() / 2, 3, None),  # equation (5.2)
    (lambda s, t: 1 - rho(s, t, center=False).mean(), 1, "not_centered"),
    (lambda s, t: 1 - rho(s, t, dim=0).mean(), 0, "over_batch"),
    (lambda s, t: 1 - rho(s.flatten(), t.flatten(), dim=0), 1, "over_everything"),
    (lambda s, t: 1 - rho(s.softmax(1), t.softmax(1)).mean(), 0, "of_probabilities"),
    (lambda s, t: (s - t).square().mean(), 0, "unknown_loss"),
    (lambda s, t: 1 - rho(s, t).square().mean(), 0, "squared_correlation"),
    (lambda s, t: (1 - rho(s, t)).sum(), 2, "summed_over_batch"),
    (lambda s, t: (standard(s) - standard(t)).square().sum(1).mean(), 0, "scales_with_C"),
    (lambda s, t: 1 - rho(t, s.detach()).mean(), 0, "networks_swapped"),
    (lambda s, t: rho(s, t).mean(), 0, "wrong_sign"),
    (lambda s, t: 1 - rho(s, t).mean().detach(), 0, "no_gradient"),
]


@pytest.mark.parametrize(("loss", "points", "code"), PEARSON)
def test_pearson_loss(loss, points, code):
    result = notebook_05.check_pearson_loss(loss)
    assert result.points == points, str(result)
    assert result.hint.startswith(notebook_05.HINTS[code]) if code else result


def test_every_hint_is_said_by_a_test():
    assert {code for _, _, code in PEARSON if code} == set(notebook_05.HINTS)


def test_mended_spearman_loss():
    check = notebook_05.check_mended
    assert check(lambda s, t: 1 - losses.spearman_correlation(s, t).mean())
    assert check(lambda s, t: 1 - rho(*(losses.soft_rank(standard(z), 3 / z.shape[1]) for z in (s, t))).mean())
    assert check(notebook_05.broken_spearman_loss).hint == notebook_05.BROKEN[0][1]
    assert check(lambda s, t: 1 - rho(s, t).mean()).hint == notebook_05.POOLED  # pooled ranks are Pearson
    for wrong, hint in notebook_05.BROKEN:
        result = check(wrong)
        assert result.points == 0 and result.hint == hint
    assert len({hint for _, hint in notebook_05.BROKEN}) == len(notebook_05.BROKEN)


def test_block():
    by_hand = losses.soft_rank(torch.tensor([1.0, 0.9, -2.0]), 0.5)
    assert notebook_05.check_block(float(by_hand[0])) and notebook_05.check_block(2.6)
    assert len({notebook_05.check_block(wrong).hint for wrong in (3, 2.5, 2.4, 2.55, -0.6, 17)}) == 6
    assert "a number" in notebook_05.check_block(None).hint


RUN = {"top1": 0.8, "spearman": 0.85}
NAMES = ("spearman", "pearson", "fixed")
SAID = "I expect no difference at all"


@pytest.mark.parametrize(
    ("results", "expected", "points"),
    [
        ({name: [RUN, RUN] for name in NAMES}, SAID, 6),
        ({name: [RUN, RUN] for name in NAMES}, "", 5),
        ({name: [RUN, RUN] for name in NAMES[:2]}, SAID, 5),
        ({name: [RUN] for name in NAMES}, SAID, 5),
        ({"spearman": [RUN] * 3, "pearson": [RUN] * 2, "fixed": [RUN] * 2}, SAID, 5),
        ({name: [RUN | {"top1": 80}] * 2 for name in NAMES}, SAID, 5),
        ({name: [{"top1": 0.8}] * 2 for name in NAMES}, SAID, 5),
        ({}, "", 0),
    ],
)
def test_directions(results, expected, points):
    assert notebook_05.check_directions(results, expected).points == points


@pytest.mark.parametrize("check", [notebook_05.check_pearson_loss, notebook_05.check_mended])
def test_blanks_and_garbage(check):
    def blank(*args):
        raise NotImplementedError

    for answer in (blank, lambda *args: None, 7):
        result = check(answer)
        assert result.points == 0 and result.hint
