"""The similarity explorer, and the matrices it and its figure draw."""

import html
import re

import numpy as np
import pytest
import torch

from kdtutor.data import ImageSet
from kdtutor.explorers import SimilarityExplorer
from kdtutor.figures import contrast, similarity_matrices
from kdtutor.figures.similarity import color_range

CLASSES = ("hat", "sock", "glove")
LABELS = torch.tensor([2, 0, 1, 0, 2, 1, 0])  # not sorted


def image_set(labels=LABELS, classes=CLASSES):
    count = 7 if labels is None else len(labels)
    return ImageSet(torch.zeros(count, 1, 4, 4, dtype=torch.uint8), labels, classes, (0.5,), (0.5,), "toy")


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def similarities(features):
    """Equations (2.1) and (2.2), with loops."""
    rows = features.double().flatten(1).numpy()
    G = np.array([[sum(a * b for a, b in zip(p, q, strict=True)) for q in rows] for p in rows])
    return np.array([row / max(np.sqrt(sum(v * v for v in row)), 1e-300) for row in G])


@pytest.fixture
def explorer():
    steps = {0: draw(7, 5, seed=1), 4: draw(7, 2, 3, seed=2), 16: draw(7, 5, seed=3)}
    return SimilarityExplorer(image_set(), draw(7, 3, 2), steps)


def said(explorer):
    return html.unescape(re.sub("<[^>]*>", "", explorer.numbers.value))


def test_the_matrix_is_the_one_of_the_chosen_step_sorted_by_class_without_diagonal(explorer):
    order = np.argsort(LABELS.numpy(), kind="stable")
    for step, features in ((4, draw(7, 2, 3, seed=2)), (16, draw(7, 5, seed=3))):
        explorer.step.value = step
        wanted = similarities(features)[order][:, order]
        np.fill_diagonal(wanted, np.nan)
        shown = np.ma.filled(explorer._shown.get_array(), np.nan)
        np.testing.assert_allclose(shown, wanted, rtol=1e-6)


def test_numbers_below_the_picture(explorer):
    explorer.step.value = 16
    G_s, G_t = similarities(draw(7, 5, seed=3)), similarities(draw(7, 3, 2))
    off = [(i, j) for i in range(7) for j in range(7) if i != j]
    rho = np.corrcoef([G_s[p] for p in off], [G_t[p] for p in off])[0, 1]
    same = np.mean([G_s[i, j] for i, j in off if LABELS[i] == LABELS[j]])
    other = np.mean([G_s[i, j] for i, j in off if LABELS[i] != LABELS[j]])
    assert "step 16" in said(explorer)
    assert f"L_SP × B {((G_s - G_t) ** 2).sum() / 7:.3f}" in said(explorer)
    assert f"correlation with the teacher's {rho:.2f}" in said(explorer)
    assert f"student's contrast {same / other:.2f}" in said(explorer)


def test_most_like_leaves_the_class_itself_out():
    # hats lie beside socks, and gloves a little nearer to socks than to hats
    directions = {0: [1.0, 0.2, 0.0], 1: [1.0, 0.4, 0.1], 2: [0.0, 0.3, 1.0]}
    features = torch.tensor([directions[int(label)] for label in LABELS])
    explorer = SimilarityExplorer(image_set(), features, {0: features})
    for name, neighbour in (("hat", "sock"), ("sock", "hat"), ("glove", "sock")):
        explorer.marked.value = CLASSES.index(name)
        assert f"{name} is most like {neighbour} to the teacher, {neighbour} to the student" in said(explorer)


def test_a_frame_lies_around_the_rows_of_the_chosen_class(explorer):
    for c, (first, count) in enumerate(((0, 3), (3, 2), (5, 2))):  # hats, socks, gloves, once they are sorted
        explorer.marked.value = c
        for frame in explorer._frames:
            assert (frame.get_y(), frame.get_height()) == (first - 0.5, count)


def test_every_move_changes_picture_and_words_and_rebuilds_nothing(explorer):
    artists = [id(artist) for artist in explorer.figure.findobj()]
    seen = {(explorer.png, explorer.alt)}
    for control, values in ((explorer.step, (4, 16)), (explorer.marked, (1, 2))):
        for value in values:
            control.value = value
            seen.add((explorer.png, explorer.alt))
    assert len({png for png, _ in seen}) == len({alt for _, alt in seen}) == 5
    assert [id(artist) for artist in explorer.figure.findobj()] == artists
    assert {"kdtutor-explorer", "kdtutor-similarity"} <= set(explorer._dom_classes)


def test_words_hold_no_number_of_a_network():
    one, other = (SimilarityExplorer(image_set(), draw(7, 4, seed=s), {3: draw(7, 4, seed=s + 5)}) for s in (0, 1))
    assert one.png != other.png and one.alt == other.alt
    assert "after 3 steps" in one.alt and "hat" in one.alt


@pytest.mark.filterwarnings("error")
def test_dead_features_and_equal_ones():
    for features in (torch.zeros(7, 4), torch.ones(7, 4)):
        explorer = SimilarityExplorer(image_set(), draw(7, 4), {0: features, 1: draw(7, 4, seed=2)})
        explorer.step.value = 1
        explorer.step.value = 0
        assert "undefined" in said(explorer) and "nan" not in said(explorer)


def test_steps_stand_in_order_and_colours_have_one_scale(explorer):
    assert [value for value in explorer.step.options] == [0, 4, 16]
    left, right = (axes.images[0].get_clim() for axes in explorer.figure.axes[:2])
    assert left == right


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((image_set(None), draw(7, 3), {0: draw(7, 3)}), ValueError, "data must have a label for every image"),
        ((image_set(LABELS - 1), draw(7, 3), {0: draw(7, 3)}), ValueError, "data must have a label for every image"),
        ((image_set(torch.zeros(4).long()), draw(4, 3), {0: draw(4, 3)}), ValueError, "data has 4 images of 1 classes"),
        ((image_set(torch.arange(3)), draw(3, 3), {0: draw(3, 3)}), ValueError, "two images of one of them"),
        ((image_set(), draw(6, 3), {0: draw(7, 3)}), ValueError, r"teacher_features has shape \(6, 3\), wanted \(7, "),
        ((image_set(), draw(7), {0: draw(7, 3)}), ValueError, r"teacher_features has shape \(7,\), wanted \(7, "),
        ((image_set(), draw(7, 3), {}), ValueError, "student_features is empty"),
        ((image_set(), draw(7, 3), {5: draw(6, 3)}), ValueError, r"student_features\[5\] has shape \(6, 3\)"),
        ((image_set(), draw(7, 3), {5: draw(7, 3) / 0}), ValueError, r"student_features\[5\] has values that are not"),
        ((image_set(), draw(7, 3).long(), {0: draw(7, 3)}), TypeError, "teacher_features must have a floating-point"),
    ],
)
def test_what_does_not_fit(arguments, error, message):
    with pytest.raises(error, match=message):
        SimilarityExplorer(*arguments)


# --- The figure ---


def test_contrast_is_the_mean_within_over_the_mean_across():
    G = draw(7, 7)
    inside = [float(G[i, j]) for i in range(7) for j in range(7) if i != j and LABELS[i] == LABELS[j]]
    across = [float(G[i, j]) for i in range(7) for j in range(7) if LABELS[i] != LABELS[j]]
    assert contrast(G, LABELS) == pytest.approx(np.mean(inside) / np.mean(across))


def test_colours_run_over_percentiles_of_what_is_off_the_diagonals():
    matrices = [draw(30, 30, seed=s) + 1000 * torch.eye(30) for s in (0, 1)]
    values = np.concatenate([m.double().numpy()[~np.eye(30, dtype=bool)] for m in matrices])
    np.testing.assert_allclose(color_range(matrices), np.percentile(values, [1, 99]), rtol=1e-6)
    low, high = color_range([torch.ones(3, 3)])
    assert low < high


def test_panels_of_the_figure_share_order_and_scale():
    matrices = {"one": draw(7, 7), "two": draw(7, 7, seed=1) + 1}
    figure = similarity_matrices(matrices, LABELS, CLASSES)
    panels = [axes for axes in figure.axes if axes.images]
    order = np.argsort(LABELS.numpy(), kind="stable")
    for axes, (name, matrix) in zip(panels, matrices.items(), strict=False):
        assert axes.get_title() == f"{name}\ncontrast {contrast(matrix, LABELS):.2f}"
        shown = np.ma.filled(axes.images[0].get_array(), np.nan)
        wanted = matrix.double().numpy()[order][:, order]
        np.testing.assert_allclose(shown[~np.eye(7, dtype=bool)], wanted[~np.eye(7, dtype=bool)])
        assert np.isnan(np.diag(shown)).all()
        assert axes.images[0].get_clim() == panels[0].images[0].get_clim()
    assert [label.get_text() for label in panels[0].get_yticklabels()] == list(CLASSES)
