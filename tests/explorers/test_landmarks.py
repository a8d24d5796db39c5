"""The landmark explorer, and the errors that it draws."""

import html
import re

import numpy as np
import pytest
import torch

from kdtutor.data import ImageSet
from kdtutor.explorers import LandmarkExplorer
from kdtutor.explorers.landmarks import _apart, kernel_errors

LABELS = torch.arange(30) % 3


def image_set(labels=LABELS):
    return ImageSet(
        torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8), labels, ("hat", "sock", "glove"), (0.5,), (0.5,), "toy"
    )


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


FEATURES = draw(30, 6)
LANDMARKS = {name: {k: draw(k, 6, seed=10 * i + k) for k in (3, 6, 8)} for i, name in enumerate(("some", "others"))}


@pytest.fixture
def explorer():
    return LandmarkExplorer(image_set(), FEATURES, LANDMARKS)


def said(explorer):
    return html.unescape(re.sub("<[^>]*>", "", explorer.numbers.value))


def kernel(x, y, name):
    """The kernel by its definition, with loops."""
    if name == "linear":
        return np.array([[sum(a * b for a, b in zip(p, q, strict=True)) for q in y] for p in x])
    return np.array([[np.exp(-((p - q) ** 2).sum() / len(p)) for q in y] for p in x])


@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_errors_are_those_of_the_definition(name):
    errors = kernel_errors(FEATURES.double(), LANDMARKS, name)
    x = FEATURES.double().numpy()
    exact = kernel(x, x, name)
    eigenvalues = np.sort(np.abs(np.linalg.eigvalsh(exact)))[::-1]
    for k in (3, 6, 8):
        best = np.sqrt((eigenvalues[k:] ** 2).sum() / (eigenvalues**2).sum())
        assert errors["best rank K"][k] == pytest.approx(best, rel=1e-6, abs=1e-9)
        for way in LANDMARKS:
            m = LANDMARKS[way][k].double().numpy()
            cross, core = kernel(x, m, name), np.linalg.pinv(kernel(m, m, name), rcond=1e-12)
            wanted = np.linalg.norm(exact - cross @ core @ cross.T) / np.linalg.norm(exact)
            assert errors[way][k] == pytest.approx(wanted, rel=1e-3, abs=1e-6)
            assert errors[way][k] >= best - 1e-9
    assert (errors["some"][6] < 1e-6) == (name == "linear")  # K = D


def test_numbers_below_the_picture(explorer):
    explorer.count.value = 6
    explorer.kernel.value = "rbf"
    error = explorer.errors["rbf"]["some"][6]
    assert f"error of some {error:.5f}" in said(explorer)
    assert f"of the best rank K {explorer.errors['rbf']['best rank K'][6]:.5f}" in said(explorer)
    assert "numbers kept 216 for 900" in said(explorer)
    explorer.kernel.value = "linear"
    assert "error of some below 0.00001" in said(explorer)


def test_the_curves_and_the_ring_are_where_the_controls_say(explorer):
    explorer.chosen.value, explorer.count.value, explorer.kernel.value = "others", 8, "rbf"
    errors = explorer.errors["rbf"]
    for name, curve in explorer._curves.items():
        np.testing.assert_allclose(curve.get_xdata(), [3, 6, 8])
        np.testing.assert_allclose(curve.get_ydata(), [max(errors[name][k], explorer.floor()) for k in (3, 6, 8)])
    assert explorer._here.get_xdata() == [8]
    np.testing.assert_allclose(explorer._here.get_ydata(), errors["others"][8])
    assert len(explorer._marks.get_xdata()) == 8


def test_every_move_changes_picture_and_words_and_rebuilds_nothing(explorer):
    artists = [id(artist) for artist in explorer.figure.findobj()]
    seen = [(explorer.png, explorer.alt)]
    for control, value in (
        (explorer.chosen, "others"), (explorer.count, 6), (explorer.count, 8), (explorer.kernel, "rbf"),
    ):  # fmt: skip
        control.value = value
        seen.append((explorer.png, explorer.alt))
    assert len({png for png, _ in seen}) == len({alt for _, alt in seen}) == 5
    assert len([id(artist) for artist in explorer.figure.findobj()]) == len(artists)
    assert {"kdtutor-explorer", "kdtutor-landmarks"} <= set(explorer._dom_classes)


def test_words_hold_no_number_of_a_network():
    one, other = (LandmarkExplorer(image_set(), draw(30, 6, seed=s), LANDMARKS) for s in (0, 1))
    assert one.png != other.png and one.alt == other.alt


def test_names_are_moved_apart_only_where_they_meet():
    points = np.array([[0.0, 0.0], [0.1, 0.1], [5.0, 0.05], [0.0, 9.0]])
    placed = _apart(points, width=1, height=1)
    assert [tuple(map(float, place)) for place in placed] == [(0, -0.9), (0.1, 0.1), (5, 0.05), (0, 9)]


@pytest.mark.filterwarnings("error")
def test_dead_and_equal_features():
    for features in (torch.zeros(30, 6), torch.ones(30, 6)):
        explorer = LandmarkExplorer(image_set(), features, LANDMARKS)
        for kernel_name in ("linear", "rbf"):
            explorer.kernel.value = kernel_name


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((image_set(), draw(29, 6), LANDMARKS), ValueError, r"features has shape \(29, 6\), wanted \(30, "),
        ((image_set(), FEATURES, {}), ValueError, "landmarks is empty"),
        ((image_set(), FEATURES, {"a": {}}), ValueError, "landmarks is empty"),
        ((image_set(), FEATURES, {"a": {3: draw(3, 6)}, "b": {4: draw(4, 6)}}), ValueError, r"landmarks\['b'\] has"),
        ((image_set(), FEATURES, {"a": {3: draw(3, 5)}}), ValueError, r"landmarks\['a'\]\[3\] is 5 wide"),
        ((image_set(), FEATURES, {"a": {3: draw(4, 6)}}), ValueError, r"landmarks\['a'\]\[3\] has shape \(4, 6\)"),
        ((image_set(), FEATURES.long(), LANDMARKS), TypeError, "features must have a floating-point"),
    ],
)
def test_what_does_not_fit(arguments, error, message):
    with pytest.raises(error, match=message):
        LandmarkExplorer(*arguments)
