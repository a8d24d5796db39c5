"""The affinity explorer, and the figures of the framework."""

import html
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kdtutor import losses
from kdtutor.data import ImageSet
from kdtutor.explorers import AffinityExplorer
from kdtutor.explorers.affinity import GROUPS, PER_PAIR
from kdtutor.figures import assembly_lines, cell_map
from kdtutor.losses.affinity import check_cell

LABELS = torch.tensor([2, 0, 1, 0, 2, 1, 0])  # not sorted
ORDER = LABELS.argsort(stable=True)
LABELLED = ImageSet(torch.zeros(7, 1, 4, 4, dtype=torch.uint8), LABELS, ("hat", "sock", "glove"), (0.5,), (0.5,), "toy")


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def explorer():
    return AffinityExplorer(LABELLED, draw(7, 6), {0: draw(7, 5, seed=1), 4: draw(7, 5, seed=2)})


def choose(explorer, affinity, normalization, discrepancy, step=4):
    explorer.affinity.value, explorer.normalization.value = affinity, normalization
    explorer.discrepancy.value, explorer.step.value = discrepancy, step


@pytest.fixture
def undrawn(monkeypatch):
    """Moves without pictures, where only numbers are looked at: a hundred pictures take seconds."""
    monkeypatch.setattr("kdtutor.explorers.explorer.png_bytes", lambda figure: b"")


def said(explorer):
    return html.unescape(re.sub("<[^>]*>", "", explorer.numbers.value))


@pytest.mark.parametrize("discrepancy", list(losses.DISCREPANCIES))
def test_what_pairs_pay_is_on_average_the_loss(discrepancy):
    s, t = (draw(9, 9, seed=seed).double().softmax(dim=1) for seed in (0, 1))
    torch.testing.assert_close(PER_PAIR[discrepancy](s, t).mean(), losses.DISCREPANCIES[discrepancy](s, t))


@pytest.mark.parametrize(
    "cell",
    [*(tuple(preset.values()) for preset in losses.PRESETS.values()), ("sqeuclidean", "row_softmax", "l1")],
)
def test_loss_pull_and_panels_are_those_of_the_cell(explorer, cell):
    choose(explorer, *cell)
    Q_s = draw(7, 5, seed=2).double()[ORDER].requires_grad_()
    Q_t = draw(7, 6).double()[ORDER]
    loss = losses.affinity_loss(Q_s, Q_t, *cell)
    (gradient,) = torch.autograd.grad(loss, Q_s)
    pull = np.linalg.norm(Q_s.detach()) * np.linalg.norm(gradient)  # (3.7)
    assert f"loss {float(loss.detach()):.3g}" in said(explorer)
    assert f"pull {pull:.3g}" in said(explorer)

    shares = np.asarray(explorer._shown.get_array())
    assert shares.mean() == pytest.approx(1)
    for name, where in explorer.groups.items():
        assert f"{name} {100 * shares[where].sum() / shares.size:.0f} %" in said(explorer)


def test_points_are_the_entries_of_both_matrices(explorer):
    choose(explorer, "inner", "none", "mse")
    G_s, G_t = ((Q @ Q.T).numpy() for Q in (draw(7, 5, seed=2).double()[ORDER], draw(7, 6).double()[ORDER]))
    low, high = min(G_s.min(), G_t.min()), max(G_s.max(), G_t.max())
    labels, seen = LABELS[ORDER], 0
    wanted = {
        "with itself": [(i, j) for i in range(7) for j in range(7) if i == j],
        "same class": [(i, j) for i in range(7) for j in range(7) if i != j and labels[i] == labels[j]],
        "other class": [(i, j) for i in range(7) for j in range(7) if labels[i] != labels[j]],
    }
    for name, pairs in wanted.items():
        x, y = explorer._points[name].get_data()
        np.testing.assert_allclose(x, [(G_t[pair] - low) / (high - low) for pair in pairs])
        np.testing.assert_allclose(y, [(G_s[pair] - low) / (high - low) for pair in pairs])
        seen += len(pairs)
    assert seen == 49 and set(wanted) == set(GROUPS)
    assert f"from {low:.3g} to {high:.3g}" in explorer._across.get_text()


def test_softmax_of_distances_gives_near_images_the_large_probabilities(explorer):
    choose(explorer, "euclidean", "row_softmax", "l1")
    Q = draw(7, 6).double()[ORDER]
    wanted = F.softmax(-torch.cdist(Q, Q), dim=1)
    cell = {"affinity": "euclidean", "normalization": "row_softmax", "discrepancy": "l1"}
    torch.testing.assert_close(explorer._matrix(explorer.teacher, cell), wanted)


def test_every_cell_is_drawn_or_refused(explorer, undrawn):
    drawn = 0
    explorer.step.value = 4
    for affinity in losses.AFFINITIES:
        for normalization in losses.NORMALIZATIONS:
            for discrepancy in losses.DISCREPANCIES:
                choose(explorer, affinity, normalization, discrepancy)
                try:
                    check_cell(affinity, normalization, discrepancy)
                    drawn += 1
                    assert "refused" not in said(explorer) and explorer._refused.get_text() == ""
                except ValueError as error:
                    assert str(error) in said(explorer) and "refused" in explorer._refused.get_text()
                assert "nan" not in said(explorer) and "inf" not in said(explorer)
    assert drawn == 154


def test_named_cells_are_named(explorer):
    choose(explorer, "cosine_shifted", "row_l1", "kl")
    assert "which is pkt" in said(explorer)
    choose(explorer, "cosine_shifted", "row_l1", "mse")
    assert "which is" not in said(explorer)


def test_every_move_changes_picture_and_words_and_rebuilds_nothing(explorer):
    artists = [id(artist) for artist in explorer.figure.findobj()]
    explorer.normalization.value = explorer.normalization.options[0]
    seen = {(explorer.png, explorer.alt)}
    for control in (explorer.affinity, explorer.step, explorer.normalization):
        for value in list(control.options)[1:]:
            control.value = value
            seen.add((explorer.png, explorer.alt))
    assert len({png for png, _ in seen}) == len({alt for _, alt in seen}) == 1 + 5 + 1 + 7
    assert [id(artist) for artist in explorer.figure.findobj()] == artists
    assert {"kdtutor-explorer", "kdtutor-affinity"} <= set(explorer._dom_classes)


@pytest.mark.filterwarnings("error")
def test_dead_features_equal_ones_and_huge_ones(undrawn):
    for features in (torch.zeros(7, 4), torch.ones(7, 4), 1e4 * draw(7, 4)):
        explorer = AffinityExplorer(LABELLED, draw(7, 4), {0: features})
        for affinity in losses.AFFINITIES:
            for normalization in losses.NORMALIZATIONS:
                choose(explorer, affinity, normalization, "mse", step=0)
                assert "nan" not in said(explorer)


def test_words_hold_no_number_of_a_network():
    one, other = (AffinityExplorer(LABELLED, draw(7, 4, seed=s), {3: draw(7, 4, seed=s + 5)}) for s in (0, 1))
    assert one.png != other.png and one.alt == other.alt
    assert "after 3 steps" in one.alt and "inner, row_l2, mse" in one.alt


@pytest.mark.parametrize(
    ("teacher", "students", "message"),
    [
        (draw(6, 3), {0: draw(7, 3)}, r"teacher_features has shape \(6, 3\), wanted \(7, "),
        (draw(7, 3), {}, "student_features is empty"),
        (draw(7, 3), {5: draw(6, 3)}, r"student_features\[5\] has shape \(6, 3\)"),
        (draw(7, 3), {5: draw(7, 3) / 0}, r"student_features\[5\] has values that are not finite"),
    ],
)
def test_what_does_not_fit(teacher, students, message):
    with pytest.raises(ValueError, match=message):
        AffinityExplorer(LABELLED, teacher, students)


# --- The figures ---


def test_the_map_has_each_value_at_its_place_and_nothing_elsewhere():
    values = {("cosine", "row_l2", "mse"): 1e-3, ("rbf", "none", "kl"): 100.0}
    figure = cell_map(values, "value", {"one": ("cosine", "row_l2", "mse")})
    affinities, normalizations = list(losses.AFFINITIES), list(losses.NORMALIZATIONS)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert list(panels) == list(losses.DISCREPANCIES)
    for name, axes in panels.items():
        grid = np.ma.filled(np.ma.asarray(axes.images[0].get_array(), dtype=float), np.nan)
        assert grid.shape == (6, 8)
        for i, affinity in enumerate(affinities):
            for j, normalization in enumerate(normalizations):
                np.testing.assert_equal(grid[i, j], values.get((affinity, normalization, name), np.nan))
    texts = {(text.get_text(), round(text.get_position()[0])) for text in panels["mse"].texts}
    assert {("−3.0", normalizations.index("row_l2")), ("one", normalizations.index("row_l2"))} <= texts
    assert ("2.0", normalizations.index("none")) in {
        (text.get_text(), round(text.get_position()[0])) for text in panels["kl"].texts
    }


def test_the_map_on_a_linear_scale():
    figure = cell_map({("inner", "none", "l1"): -0.5, ("rbf", "none", "l1"): 1.25}, "gain", log=False)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts if text.get_text() not in ("–", "")]
    assert texts == ["−0.5", "1.2"]


def test_assembly_lines_compare_the_two_networks_on_one_scale():
    matrices = [draw(5, 5, seed=seed) + seed for seed in range(4)]
    figure = assembly_lines({"a method": tuple(matrices)})
    panels = [axes for axes in figure.axes if axes.images]
    for axes, matrix in zip(panels, matrices, strict=True):
        shown = np.ma.filled(axes.images[0].get_array(), np.nan)
        off = ~np.eye(5, dtype=bool)
        np.testing.assert_allclose(shown[off], matrix.double().numpy()[off])
        assert np.isnan(np.diag(shown)).all()
    assert panels[1].images[0].get_clim() == panels[2].images[0].get_clim()
    assert panels[0].images[0].get_clim() != panels[1].images[0].get_clim()
    assert panels[0].get_ylabel() == "a method"
