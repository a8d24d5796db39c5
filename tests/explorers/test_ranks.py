"""The explorer of soft ranks."""

import html
import re

import numpy as np
import pytest
import torch

from kdtutor.data import ImageSet
from kdtutor.explorers import RanksExplorer
from kdtutor.explorers.ranks import ranks_and_gradient, true_rank

CLASSES = ("hat", "sock", "glove", "scarf", "belt")


def image_set(count=3):
    images = torch.zeros(count, 1, 4, 4, dtype=torch.uint8)
    return ImageSet(images, None, CLASSES, (0.5,), (0.5,), "toy")


LOGITS = 4 * torch.randn(3, 5, generator=torch.Generator().manual_seed(0)) + 7


def zscored(row):
    row = row.double().numpy()
    return (row - row.mean()) / row.std()


def soft_ranks(z, strength):
    """Equations (5.4) to (5.6), the fit in closed form, with loops."""
    order = np.argsort(-z, kind="stable")
    s = z[order] / strength
    n = len(z)
    y = s - np.arange(n, 0, -1)
    v = [min(max(y[j : k + 1].mean() for k in range(i, n)) for j in range(i + 1)) for i in range(n)]
    ranks = np.empty(n)
    ranks[order] = s - np.array(v)
    return ranks


@pytest.fixture
def explorer():
    return RanksExplorer(image_set(), LOGITS)


def said(explorer):
    return html.unescape(re.sub("<[^>]*>", "", explorer.numbers.value))


@pytest.mark.parametrize("strength", [0.01, 0.3, 0.8, 5.0])
def test_gradient_is_that_of_finite_differences(strength):
    z = zscored(LOGITS[1])
    ranks, gradient = ranks_and_gradient(torch.tensor(z), strength)
    np.testing.assert_allclose(ranks, soft_ranks(z, strength), atol=1e-9)
    step = 1e-6
    for j in range(5):
        moved = z.copy()
        moved[j] += step
        slope = (soft_ranks(moved, strength) - soft_ranks(z, strength)) / step
        np.testing.assert_allclose(gradient[:, j], slope, atol=1e-4)


def test_true_ranks_share_their_average_where_values_are_equal():
    rows = torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 0.0], [2.0, 2.0, 2.0]])
    assert true_rank(rows).tolist() == [[3, 1, 2], [2.5, 2.5, 1], [2, 2, 2]]


def test_curve_matrix_and_dot_are_those_of_the_moved_class(explorer):
    explorer.image.value, explorer.moved.value, explorer.shift.value, explorer.strength.value = 2, 3, 0.5, 0.3
    strength = explorer.strength.value
    z = zscored(LOGITS[2])
    z[3] += 0.5
    x, y = (float(values[0]) for values in explorer._here.get_data())
    assert (x, y) == pytest.approx((z[3], soft_ranks(z, strength)[3]))
    for k in (0, 40, 70, 100, 140):
        line = z.copy()
        line[3] = explorer._at[k]
        assert explorer._curve.get_ydata()[k] == pytest.approx(soft_ranks(line, strength)[3])
        assert explorer._steps.get_ydata()[k] == 1 + (z[[0, 1, 2, 4]] < line[3]).sum()
    np.testing.assert_allclose(sorted(explorer._others.get_xdata()), sorted(z[[0, 1, 2, 4]]))
    order = np.argsort(-z)
    gradient = ranks_and_gradient(torch.tensor(z), strength)[1].numpy()
    np.testing.assert_allclose(explorer._grid.get_array(), strength * gradient[order][:, order])
    assert [t.get_text() for t in explorer._grid.axes.get_yticklabels()] == [CLASSES[k] for k in order]


def test_numbers_below_the_picture(explorer):
    explorer.image.value, explorer.moved.value, explorer.strength.value = 1, 2, 0.5
    z, strength = zscored(LOGITS[1]), explorer.strength.value
    r, true = soft_ranks(z, strength), np.argsort(np.argsort(z)) + 1.0
    gradient = ranks_and_gradient(torch.tensor(z), strength)[1].numpy()
    assert f"glove: true rank {true[2]:g}" in said(explorer) and f"soft rank {r[2]:.2f}" in said(explorer)
    assert f"true ranks {np.corrcoef(r, true)[0, 1]:.3f}" in said(explorer)
    assert f"with the values {np.corrcoef(r, z)[0, 1]:.3f}" in said(explorer)
    assert f"classes with a gradient {(np.abs(gradient).sum(1) > 0).sum()} of 5" in said(explorer)


def test_from_steps_to_a_straight_line(explorer):
    explorer.strength.value = 10.0
    assert "with the values 1.000" in said(explorer) and "gradient 5 of 5" in said(explorer)
    explorer.strength.value = 0.01
    assert "true ranks 1.000" in said(explorer) and "gradient 0 of 5" in said(explorer)


def test_every_move_changes_picture_and_words_and_rebuilds_nothing(explorer):
    explorer.shift.value = 0.1
    seen = [(explorer.png, explorer.alt)]
    curve, grid = explorer._curve, explorer._grid
    moves = (
        (explorer.image, (1, 2)), (explorer.moved, (1, 4)), (explorer.shift, (-3.0, 3.0, 0.5)),
        (explorer.strength, (10.0, 7.9432823, 0.01, 0.0125893)),
    )  # fmt: skip
    for control, values in moves:
        for value in values:
            control.value = value
            seen.append((explorer.png, explorer.alt))
    assert len({png for png, _ in seen}) == len({alt for _, alt in seen}) == len(seen)
    assert curve in explorer.figure.axes[0].lines and grid in explorer.figure.axes[1].images
    assert len(explorer.figure.axes) == 3 and len(explorer.figure.axes[0].lines) == 4
    assert {"kdtutor-explorer", "kdtutor-ranks"} <= set(explorer._dom_classes)


def test_words_hold_no_number_of_a_network():
    one, other = RanksExplorer(image_set(), LOGITS), RanksExplorer(image_set(), LOGITS.flip(0))
    assert one.png != other.png and one.alt == other.alt


@pytest.mark.filterwarnings("error")
def test_extremes_and_ties():
    explorer = RanksExplorer(image_set(1), torch.tensor([[1.0, 1.0, 1.0, 1.0, 1000.0]]))
    for shift in (-3.0, 0.0, 3.0):
        for strength in (0.01, 10.0):
            for c in (0, 4):
                explorer.moved.value, explorer.shift.value, explorer.strength.value = c, shift, strength
                assert "nan" not in said(explorer)


@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (LOGITS[:2], ValueError, r"teacher_logits has shape \(2, 5\), wanted \(3, 5\)"),
        (LOGITS[:, :4], ValueError, r"teacher_logits has shape \(3, 4\), wanted \(3, 5\)"),
        (LOGITS / 0, ValueError, "teacher_logits has values that are not finite"),
        (torch.ones(3, 5), ValueError, "teacher_logits has a row in which all classes are equal"),
        (LOGITS.long(), TypeError, "teacher_logits must have a floating-point"),
    ],
)
def test_what_does_not_fit(logits, error, message):
    with pytest.raises(error, match=message):
        RanksExplorer(image_set(), logits)
