"""Checks of notebook 04: right answers get all points, and each usual wrong answer its own hint."""

import random

import pytest
import torch
from torch.nn import functional as F

from kdtutor import losses
from kdtutor.exercises import notebook_04


def test_target():
    assert notebook_04.check_target("c")
    assert len({notebook_04.check_target(letter).hint for letter in "abd"}) == 3
    assert "Answer with one letter" in notebook_04.check_target("").hint


def test_the_right_choice_is_right():
    z, partner = torch.randn(2, 50, 6)
    shares = (losses.interpolated_logits(z, partner, 0.3) / 4).softmax(dim=1)
    ends = torch.stack([(z / 4).softmax(dim=1), (partner / 4).softmax(dim=1)])
    assert (shares <= ends.amax(dim=0) + 1e-6).all()  # no class is favoured beyond the clean answers


def ce(s, y, p, lam):
    return lam * F.cross_entropy(s, y) + (1 - lam) * F.cross_entropy(s, p)


def reverse(s, t, T):
    return T**2 * F.kl_div((t / T).log_softmax(1), (s / T).softmax(1), reduction="batchmean")


kd = losses.kd_loss
STKD = [
    (lambda s, t, y, p, lam, T: 0.1 * ce(s, y, p, lam) + 0.9 * kd(s, t, T), 3, None),
    (lambda s, t, y, p, lam, T: losses.stkd_loss(s, t, y, p, lam, T), 3, None),
    (lambda s, t, y, p, lam, T: 0.1 * ce(s, p, y, lam) + 0.9 * kd(s, t, T), 1, "lam_swapped"),
    (lambda s, t, y, p, lam, T: 0.1 * F.cross_entropy(s, y) + 0.9 * kd(s, t, T), 0, "partner_ignored"),
    (lambda s, t, y, p, lam, T: 0.1 * ce(s, y, p, 0.5) + 0.9 * kd(s, t, T), 0, "lam_unused"),
    (lambda s, t, y, p, lam, T: 0.1 * ce(s, y, p, lam) + 0.9 * kd(s, t.roll(1, 0), T), 0, "teacher_answers_permuted"),
    (lambda s, t, y, p, lam, T: 0.1 * ce(s, y, p, lam) + 0.9 * reverse(s, t, T), 1, "reverse_kl"),
    (lambda s, t, y, p, lam, T: 0.1 * ce(t, y, p, lam) + 0.9 * kd(t, s.detach(), T), 0, "networks_swapped"),
    (lambda s, t, y, p, lam, T: 0.1 * ce(s, y, p, lam) + 0.9 * kd(s, t, T) / T**2, 2, "t_squared_missing"),
    (lambda s, t, y, p, lam, T: 0.1 * ce(s, y, p, lam) + 0.9 * kd(s, t, T) / T, 2, "t_once"),
    (lambda s, t, y, p, lam, T: 0.1 * ce(s, y, p, lam) + 0.9 * kd(s, t, T) / s.shape[1], 2, "mean_over_classes"),
    (lambda s, t, y, p, lam, T: 0.1 * ce(s, y, p, lam) + 0.9 * kd(s, t, T) * len(s), 2, "summed_over_batch"),
    (lambda s, t, y, p, lam, T: 0.9 * ce(s, y, p, lam) + 0.1 * kd(s, t, T), 1, "weights_swapped"),
    (lambda s, t, y, p, lam, T: kd(s, t, T), 0, "part_missing"),
    (lambda s, t, y, p, lam, T: ce(s, y, p, lam), 0, "part_missing"),
    (lambda s, t, y, p, lam, T: -losses.stkd_loss(s, t, y, p, lam, T), 0, "wrong_sign"),
    (lambda s, t, y, p, lam, T: losses.stkd_loss(s, t, y, p, lam, T).detach(), 0, "no_gradient"),
]


@pytest.mark.parametrize(("loss", "points", "code"), STKD)
def test_stkd_loss(loss, points, code):
    result = notebook_04.check_stkd_loss(loss)
    assert result.points == points, str(result)
    assert result.hint.startswith(notebook_04.HINTS[code]) if code else result


def test_every_hint_is_said_by_a_test():
    assert {code for _, _, code in STKD if code} == set(notebook_04.HINTS)


def test_noise_is_what_a_simulation_finds():
    g = torch.Generator().manual_seed(0)
    own, partner, named = torch.randint(10, (3, 200_000), generator=g)
    lam = torch.rand(200_000, generator=g)
    share = float(((1 - lam) * ((named != own) & (named != partner))).mean())
    assert share == pytest.approx(0.405, abs=0.004)
    assert notebook_04.check_noise(0.405)
    assert len({notebook_04.check_noise(wrong).hint for wrong in (0.5, 0.45, 0.9, 0.81, 0.4, 3)}) == 6
    assert "a number" in notebook_04.check_noise(None).hint


def mended(images, labels, swapped=False, other_lam=False, fixed=False, in_place=False, off=False, narrow=False):
    lam = random.random() / (2 if narrow else 1)
    permutation = torch.arange(len(images)).roll(1) if fixed else torch.randperm(len(images))
    partners = images[permutation].clone()
    mixed = (images.mul_(lam) if in_place else lam * images) + (1 if off else 1 - lam) * partners
    return mixed, labels, labels[permutation], 1 - lam if swapped else random.random() if other_lam else lam


def test_mended_mixup():
    random.seed(0)
    check, hints = notebook_04.check_mended, notebook_04.MIXING
    assert check(mended)
    assert check(notebook_04.broken_mixup).hint == hints["labels_permuted_differently"]
    switches = {
        "swapped": "lam_swapped", "other_lam": "other_lam", "fixed": "fixed_permutation",
        "in_place": "inputs_changed", "off": "not_a_blend", "narrow": "lam_distribution",
    }  # fmt: skip
    for switch, code in switches.items():
        said = check(lambda images, labels, switch=switch: mended(images, labels, **{switch: True}))
        assert said.points == 0 and said.hint.startswith(hints[code]), (switch, str(said))
    assert check(lambda images, labels: (images.clone(), labels, labels, 1.0)).hint == hints["never_mixed"]


def test_gap():
    assert notebook_04.check_gap(0) and notebook_04.check_gap(0.5 * (0.9 - 0.8) + 0.5 * (0.5 - 0.6))
    assert len({notebook_04.check_gap(wrong).hint for wrong in (0.1, -0.1, 0.2, 7)}) == 4


RUN = {"top1": 0.8, "overconfidence": -0.02}


@pytest.mark.parametrize(
    ("results", "expected", "points"),
    [
        ({name: [RUN, RUN] for name in ("kd", "virtual", "interpolated")}, "I expect KD to come first", 6),
        ({name: [RUN, RUN] for name in ("kd", "virtual", "interpolated")}, "", 5),
        ({name: [RUN, RUN] for name in ("kd", "virtual")}, "I expect KD to come first", 5),
        ({name: [RUN] for name in ("kd", "virtual", "interpolated")}, "I expect KD to come first", 5),
        ({"kd": [RUN] * 3, "virtual": [RUN] * 2, "interpolated": [RUN] * 2}, "I expect KD to come first", 5),
        ({name: [RUN | {"top1": 80}] * 2 for name in ("kd", "virtual", "interpolated")}, "I expect KD to be first", 5),
        ({name: [{"top1": 0.8}] * 2 for name in ("kd", "virtual", "interpolated")}, "I expect KD to be first", 5),
        ({}, "", 0),
    ],
)
def test_targets(results, expected, points):
    assert notebook_04.check_targets(results, expected).points == points


@pytest.mark.parametrize("check", [notebook_04.check_stkd_loss, notebook_04.check_mended])
def test_blanks_and_garbage(check):
    def blank(*args):
        raise NotImplementedError

    for answer in (blank, lambda *args: None, lambda *args: "seven", 7):
        result = check(answer)
        assert result.points == 0 and result.hint
