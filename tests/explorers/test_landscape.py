"""The landscape explorer: values and gradients against finite differences and definitions written with loops."""

import html
import math
import re

import numpy as np
import pytest
import torch

from kdtutor.explorers import LandscapeExplorer
from kdtutor.explorers.landscape import LOGIT_LOSSES, TEACHERS, value_and_gradient


@pytest.fixture
def explorer():
    return LandscapeExplorer()


def said(explorer):
    return html.unescape(re.sub("<[^>]*>", "", explorer.numbers.value))


def softmax(z, T):
    e = [math.exp(v / T) for v in z]
    return [v / sum(e) for v in e]


def pearson(a, b):
    return float(np.corrcoef(a, b)[0, 1])


DEFINITIONS = {
    "kd": lambda s, t, T: T**2 * sum(q * math.log(q / p) for p, q in zip(softmax(s, T), softmax(t, T), strict=True)),
    "dist, per image": lambda s, t, T: 1 - pearson(softmax(s, T), softmax(t, T)),
    "pearson": lambda s, t, T: 1 - pearson(s, t),
    "squared error of logits": lambda s, t, T: sum((a - b) ** 2 for a, b in zip(s, t, strict=True)),
    "squared error of softmaxes": lambda s, t, T: (
        T**2 * sum((p - q) ** 2 for p, q in zip(softmax(s, T), softmax(t, T), strict=True))
    ),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_losses_are_their_definitions(name):
    rows = torch.tensor([[-3.0, 5.0, 0.0], [1.0, 0.5, 0.0], [4.0, -2.0, 0.0]], dtype=torch.float64)
    for teacher in TEACHERS.values():
        for T in (1.0, 4.0):
            values, _ = value_and_gradient(LOGIT_LOSSES[name], rows, torch.tensor(teacher, dtype=torch.float64), T)
            wanted = [DEFINITIONS[name](row, teacher, T) for row in rows.tolist()]
            np.testing.assert_allclose(values, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_gradients_are_slopes_and_the_teacher_is_the_lowest_point(name):
    teacher = torch.tensor(TEACHERS["in two minds"], dtype=torch.float64)
    row = torch.tensor([[-1.3, 2.1, 0.0]], dtype=torch.float64)
    (value,), (gradient,) = value_and_gradient(LOGIT_LOSSES[name], row, teacher, 2.0)
    for i in range(3):
        step = torch.zeros(1, 3, dtype=torch.float64)
        step[0, i] = 1e-5
        (up,), _ = value_and_gradient(LOGIT_LOSSES[name], row + step, teacher, 2.0)
        (down,), _ = value_and_gradient(LOGIT_LOSSES[name], row - step, teacher, 2.0)
        assert float(gradient[i]) == pytest.approx(float(up - down) / 2e-5, rel=1e-3, abs=1e-5)
    (at_teacher,), _ = value_and_gradient(LOGIT_LOSSES[name], teacher[None], teacher, 2.0)
    assert float(at_teacher) == pytest.approx(0, abs=1e-6) and float(value) > 0.01


def test_numbers_below_the_picture(explorer):
    explorer.first.value, explorer.second.value, explorer.temperature.value = -3.0, 5.0, 4.0
    assert f"loss {DEFINITIONS['kd']((-3, 5, 0), TEACHERS['sure'], 4.0):.3f}" in said(explorer)
    pull = [4 * (q - p) for p, q in zip(softmax((-3, 5, 0), 4), softmax(TEACHERS["sure"], 4), strict=True)]
    assert ", ".join(f"{v:+.3f}".replace("-", "−") for v in pull) in said(explorer)


def test_picture_shows_the_loss_the_line_and_both_answers(explorer):
    explorer.first.value, explorer.second.value = 2.0, -1.0
    shown = np.asarray(explorer._shown.get_array())
    axis = explorer._axis.tolist()
    values = np.array([[DEFINITIONS["kd"]((a, b, 0), TEACHERS["sure"], 1.0) for a in axis] for b in axis])
    np.testing.assert_allclose(shown, values / values.max(), atol=1e-6)
    line = [DEFINITIONS["kd"]((a, -1.0, 0), TEACHERS["sure"], 1.0) for a in axis]
    np.testing.assert_allclose(explorer._curves["loss"].get_ydata(), np.array(line) / max(line), atol=1e-6)
    assert list(explorer._here.get_xdata()) == [2.0, 2.0]
    assert (explorer._target.get_xdata()[0], explorer._target.get_ydata()[0]) == TEACHERS["sure"][:2]
    assert (explorer._student.get_xdata()[0], explorer._student.get_ydata()[0]) == (2.0, -1.0)


def test_squared_error_of_softmaxes_hardly_pulls_who_is_sure_and_wrong():
    row, teacher = torch.tensor([[-3.0, 8.0, 0.0]]).double(), torch.tensor(TEACHERS["sure"]).double()
    pulls = {name: float(value_and_gradient(LOGIT_LOSSES[name], row, teacher, 1.0)[1].norm()) for name in LOGIT_LOSSES}
    assert pulls["squared error of softmaxes"] < 0.01 < 1 < pulls["kd"]


def test_every_move_changes_picture_and_words_and_rebuilds_nothing(explorer):
    artists = len(explorer.figure.findobj())
    seen = [(explorer.png, explorer.alt)]
    moves = [(explorer.loss, name) for name in list(LOGIT_LOSSES)[1:]]
    moves += [(explorer.teacher, "in two minds"), (explorer.teacher, "unsure"), (explorer.temperature, 2**0.5)]
    moves += [(explorer.first, -2.5), (explorer.second, 4.5)]
    for control, value in moves:
        control.value = value
        seen.append((explorer.png, explorer.alt))
    assert len({png for png, _ in seen}) == len({alt for _, alt in seen}) == len(seen)
    assert len(explorer.figure.findobj()) == artists
    assert {"kdtutor-explorer", "kdtutor-landscape"} <= set(explorer._dom_classes)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_extremes(explorer, name):
    explorer.loss.value = name
    for a, b, T in ((-6, -6, 1), (10, 10, 16), (0, 0, 1), (6, 1, 1)):
        explorer.first.value, explorer.second.value, explorer.temperature.value = a, b, T
        assert "nan" not in said(explorer)


def test_a_loss_of_ones_own():
    explorer = LandscapeExplorer({"mine": lambda s, t, T: (s - t).abs().sum(dim=1)})
    assert explorer.loss.options == ("mine",)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({}, "losses is empty"),
        ({"mean": lambda s, t, T: (s - t).square().mean()}, r"losses\['mean'\] answers .* with shape \(\)"),
        ({"nan": lambda s, t, T: s[:, 0] / 0}, r"losses\['nan'\]"),
        ({"number": lambda s, t, T: 1.0}, "with float"),
    ],
)
def test_what_does_not_fit(losses, message):
    with pytest.raises(ValueError, match=message):
        LandscapeExplorer(losses)
