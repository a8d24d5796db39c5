"""Checks of notebook 03: right answers get all points, and each usual wrong answer its own hint."""

import pytest
import torch
from torch.nn import functional as F

from kdtutor import losses
from kdtutor.exercises import notebook_03
from kdtutor.losses.affinity import valid_cells


def test_blind_spot():
    assert notebook_03.check_blind_spot("b")
    assert len({notebook_03.check_blind_spot(letter).hint for letter in "acd"}) == 3
    assert "Answer with one letter" in notebook_03.check_blind_spot("").hint


def test_the_right_choice_is_right():
    f_s, f_t, v = torch.randn(6, 4).double(), torch.randn(6, 5).double(), torch.randn(4).double()
    for name in ("sp", "rkd_distance", "pkt", "cc"):
        before, after = (losses.affinity_loss(f, f_t, **losses.PRESETS[name]) for f in (f_s, f_s + v))
        assert (abs(float(after / before) - 1) < 1e-9) == (name == "rkd_distance")


def squares(f):
    return (f[:, None] - f[None]).square().sum(2)


def safe_root(f):
    zero = squares(f) == 0
    return squares(f).masked_fill(zero, 1).sqrt().masked_fill(zero, 0)


def mean_of_positive(d):
    return d[d > 0].mean()


def rkd(s, t, root=safe_root, mean=mean_of_positive, compare=F.smooth_l1_loss):
    a, b = root(s.flatten(1)), root(t.flatten(1))
    return compare(a / mean(a), b / mean(b))


def summed(a, b):
    return F.smooth_l1_loss(a, b, reduction="sum")


RKD = [
    (rkd, 3, None),
    (lambda s, t: rkd(s, t, root=lambda f: torch.cdist(f, f)), 3, None),
    (lambda s, t: rkd(s, t, mean=torch.mean), 2, "mean_of_all_entries"),
    (lambda s, t: rkd(s, t, mean=lambda d: mean_of_positive(d).detach()), 2, "mean_detached"),
    (lambda s, t: rkd(s, t, compare=summed), 2, "summed_over_pairs"),
    (lambda s, t: rkd(s, t, compare=lambda a, b: summed(a, b) / len(s)), 2, "divided_by_batch_once"),
    (lambda s, t: rkd(s, t) / len(s) ** 2, 2, "batch_divided_twice"),
    (lambda s, t: rkd(s, t, root=lambda f: squares(f).sqrt()), 0, "not_finite"),
    (lambda s, t: rkd(s, t, mean=lambda d: d.sum(1, keepdim=True) / (len(d) - 1)), 0, "unknown_loss"),
    (lambda s, t: rkd(t, s.detach()), 0, "networks_swapped"),
    (lambda s, t: -rkd(s, t), 0, "wrong_sign"),
    (lambda s, t: rkd(s, t).detach(), 0, "no_gradient"),
]


@pytest.mark.parametrize(("loss", "points", "code"), RKD)
def test_rkd_distance(loss, points, code):
    result = notebook_03.check_rkd_distance(loss)
    assert result.points == points, result
    assert bool(result) if code is None else notebook_03.RKD_HINTS[code] in result.hint


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda s, t: rkd(s, t, root=squares), "square root is missing"),
        (lambda s, t: rkd(s, t, compare=F.mse_loss), "smooth_l1 is due"),
        (lambda s, t: rkd(s, t, mean=lambda d: 1.0), "not divided by their mean"),
    ],
)
def test_rkd_distance_as_another_cell(loss, said):
    result = notebook_03.check_rkd_distance(loss)
    assert result.points == 0 and said in result.hint


def rows(features):
    unit = F.normalize(features.flatten(1), dim=1)
    similarities = (unit @ unit.T + 1) / 2
    return similarities / similarities.sum(1, keepdim=True)


def pkt(s, t, reduce=torch.mean):
    return reduce(rows(t) * ((rows(t) + 1e-7) / (rows(s) + 1e-7)).log())


def reverse_pkt(s, t):
    return (rows(s) * ((rows(s) + 1e-7) / (rows(t) + 1e-7)).log()).mean()


PKT = [
    (pkt, 2, None),
    (reverse_pkt, 1, "reverse_kl"),
    (lambda s, t: pkt(s, t, lambda x: x.sum(1).mean()), 1, "divided_by_batch_once"),
    (lambda s, t: pkt(s, t, torch.sum), 0, "summed_over_pairs"),
    (lambda s, t: pkt(s, t) / len(s) ** 2, 0, "batch_divided_twice"),
    (lambda s, t: pkt(t, s.detach()), 0, "networks_swapped"),
]


@pytest.mark.parametrize(("loss", "points", "code"), PKT)
def test_mended(loss, points, code):
    result = notebook_03.check_mended(loss)
    assert result.points == points, result
    assert bool(result) if code is None else notebook_03.PKT_HINTS[code] in result.hint


def test_what_is_not_mended_gets_nothing():
    result = notebook_03.check_mended(notebook_03.broken_pkt_loss)
    assert result.points == 0 and "Nothing is mended" in result.hint


def test_every_hint_is_tried():
    for tried, hints in ((RKD, notebook_03.RKD_HINTS), (PKT, notebook_03.PKT_HINTS)):
        assert {code for _, _, code in tried} - {None} == set(hints)
        assert len(set(hints.values())) == len(hints)


def test_functions_that_cannot_run():
    def blank(student_features, teacher_features):
        raise NotImplementedError

    for check in (notebook_03.check_rkd_distance, notebook_03.check_mended):
        assert "not written yet" in check(blank).hint and check(blank).points == 0
        assert "Pass the function itself" in check(None).hint
        assert "return missing" in check(lambda s, t: None).hint


def test_diagnosis():
    generator = torch.Generator().manual_seed(0)
    s, t = (torch.randn(16, 8, generator=generator) for _ in range(2))
    factor = float(notebook_03.broken_pkt_loss(s, t) / reverse_pkt(s, t))
    assert notebook_03.check_diagnosis(factor, batch_size=16)
    wrong = (256, 1 / 16, 1)
    assert len({notebook_03.check_diagnosis(value, 16).hint for value in wrong}) == len(wrong)
    for value in (*wrong, None, "many"):
        assert notebook_03.check_diagnosis(value, 16).points == 0


def test_count():
    assert notebook_03.check_cells(len(valid_cells()))
    wrong = (192, 144, 156, 150, 152, 10)
    assert len({notebook_03.check_cells(value).hint for value in wrong}) == len(wrong)
    for value in (*wrong, None, 153):
        assert notebook_03.check_cells(value).points == 0


VALIDATION = {"ce": [0.70, 0.71], "SP": [0.73, 0.75], "PKT": [0.74, 0.74]}
WEIGHTS = {"ce": 0.0, "SP": 3000.0, "PKT": 30000.0}
PULLS = {"ce": 0.0, "SP": 0.005, "PKT": 0.0004}
SAID = "both are ahead of labels alone"
WHOLE = {"validation": VALIDATION, "weights": WEIGHTS, "pulls": PULLS, "expected": SAID}


@pytest.mark.parametrize(
    ("changed", "missing"),
    [
        ({"expected": ""}, "what you expected"),
        ({"validation": {"SP": [0.7, 0.7], "PKT": [0.7, 0.7]}}, "labels alone"),
        ({"validation": {name: values[:1] for name, values in VALIDATION.items()}}, "at least two seeds"),
        ({"validation": {**VALIDATION, "ce": [0.7, 0.7, 0.7]}}, "the same number of seeds"),
        ({"validation": {**VALIDATION, "ce": [70, 71]}}, "between 0 and 1"),
        ({"weights": {**WEIGHTS, "PKT": 3000.0}}, "same weight times pull"),
        ({"pulls": {"SP": 0.005}}, "same weight times pull"),
    ],
)
def test_fair_comparison(changed, missing):
    result = notebook_03.check_fair_comparison(**{**WHOLE, **changed})
    assert result.points == 6 and missing in result.hint
    assert notebook_03.check_fair_comparison(**WHOLE)


def test_fair_comparison_of_one_cell_or_none():
    result = notebook_03.check_fair_comparison({"ce": [0.7, 0.7], "SP": [0.7, 0.7]}, WEIGHTS, PULLS, SAID)
    assert "at least two cells" in result.hint and result.points == 5
    assert notebook_03.check_fair_comparison({}, {"ce": 0.0}, {"ce": 0.0}, "").points == 0
