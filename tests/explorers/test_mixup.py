"""The mixup explorer."""

import html
import re

import numpy as np
import pytest
import torch
from torch import nn

from kdtutor.data import ImageSet, normalize
from kdtutor.explorers import MixupExplorer, answers_on_lines

CLASSES = ("hat", "sock", "glove", "scarf")


def image_set(count=3, labels=(0, 2, 1), classes=CLASSES, channels=1):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, channels, 4, 4), generator=g, dtype=torch.uint8)
    labels = None if labels is None else torch.tensor([labels[i % len(labels)] for i in range(count)])
    return ImageSet(images, labels, classes, (0.5,) * channels, (0.25,) * channels, "toy")


def network(seed=0, classes=4, channels=1):
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(16 * channels, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, classes))
    return layers.train()


@pytest.fixture
def explorer():
    return MixupExplorer(image_set(), network(1), network(2), steps=4)


def said(explorer):
    return html.unescape(re.sub("<[^>]*>", "", explorer.numbers.value))


def asked(net, data, i, j, lam):
    """Equation (4.1), one image at a time."""
    x = normalize(data.images, data.mean, data.std)
    with torch.no_grad():
        return net.eval()((lam * x[i] + (1 - lam) * x[j])[None]).double()[0].numpy()


def softmax(z, T=1.0):
    p = np.exp(z / T - np.max(z / T))
    return p / p.sum()


def test_answers_on_lines_are_those_to_each_virtual_image_in_eval_mode():
    data, net = image_set(), network()
    answers = answers_on_lines(net, data, steps=4)
    assert answers.shape == (5, 3, 3, 4) and net.training
    for k, i, j in ((0, 0, 1), (1, 0, 1), (3, 2, 0), (4, 1, 2), (2, 1, 1)):
        np.testing.assert_allclose(answers[k, i, j].numpy(), asked(net, data, i, j, k / 4), rtol=1e-5, atol=1e-6)


def test_curves_follow_the_chosen_pair_and_temperature(explorer):
    explorer.first.value, explorer.second.value, explorer.temperature.value = 2, 1, 4.0
    data = image_set()
    for who, net in (("teacher", network(1)), ("student", network(2))):
        for role, c in ((0, 1), (1, 2)):  # image 2 is a sock, image 1 a glove
            wanted = [100 * softmax(asked(net, data, 2, 1, k / 4), 4.0)[c] for k in range(5)]
            np.testing.assert_allclose(explorer._curves[who, role].get_ydata(), wanted, rtol=1e-5)


def test_blended_answers_are_straight_lines_between_the_clean_ones(explorer):
    explorer.target.value = "interpolated"
    explorer.temperature.value = 2.0
    net, data = network(1), image_set()
    ends = [softmax(asked(net, data, 0, 1, lam), 2.0) for lam in (0.0, 1.0)]
    for role, c in ((0, 0), (1, 2)):
        wanted = 100 * np.linspace(ends[0][c], ends[1][c], 5)
        np.testing.assert_allclose(explorer._curves["teacher", role].get_ydata(), wanted, rtol=1e-5)


def test_the_picture_is_the_blend_and_the_loss_that_of_this_image(explorer):
    explorer.lam.value, explorer.temperature.value = 0.75, 2.0
    data = image_set()
    pixels = data.images.double().numpy()
    np.testing.assert_allclose(explorer._shown.get_array(), (0.75 * pixels[0] + 0.25 * pixels[1])[0], rtol=1e-6)
    p_t, p_s = (softmax(asked(network(seed), data, 0, 1, 0.75), 2.0) for seed in (1, 2))
    assert f"KL × T² {4 * (p_t * np.log(p_t / p_s)).sum():.3f}" in said(explorer)
    assert f"hat {100 * p_t[0]:.0f} %" in said(explorer) and "0.75" in explorer.alt


def test_the_third_class_is_in_neither_image(explorer):
    for i in range(3):
        for j in range(3):
            explorer.first.value, explorer.second.value = i, j
            third = re.sub(r" \(third\)", "", explorer._legend.get_texts()[2].get_text())
            own = {CLASSES[int(image_set().labels[k])] for k in (i, j)}
            assert third in CLASSES and third not in own


def test_every_move_changes_picture_and_words_and_rebuilds_nothing(explorer):
    artists = [id(artist) for artist in explorer.figure.findobj()]
    seen = [(explorer.png, explorer.alt)]
    moves = (
        (explorer.first, (1, 2)), (explorer.second, (2, 0)), (explorer.lam, (0.0, 0.25, 0.75, 1.0)),
        (explorer.temperature, (2.0, 16.0)), (explorer.target, ("interpolated",)),
    )  # fmt: skip
    for control, values in moves:
        for value in values:
            control.value = value
            seen.append((explorer.png, explorer.alt))
    assert len({png for png, _ in seen}) == len({alt for _, alt in seen}) == len(seen)
    assert [id(artist) for artist in explorer.figure.findobj()] == artists
    assert {"kdtutor-explorer", "kdtutor-mixup"} <= set(explorer._dom_classes)


def test_words_hold_no_number_of_a_network():
    one, other = (MixupExplorer(image_set(), network(s), network(s + 1), steps=4) for s in (0, 5))
    assert one.png != other.png and one.alt == other.alt


@pytest.mark.filterwarnings("error")
def test_extremes_of_all_controls(explorer):
    for i in (0, 2):
        for j in (0, 2):
            for lam in (0, 1):
                for target in ("virtual", "interpolated"):
                    explorer.first.value, explorer.second.value = i, j
                    explorer.lam.value, explorer.target.value = lam, target
                    explorer.temperature.value = 16.0
                    assert "nan" not in said(explorer)


def test_two_images_of_one_class_and_colour_images():
    data = image_set(labels=(1, 1, 0), channels=3)
    explorer = MixupExplorer(data, network(channels=3), network(1, channels=3), steps=4)
    assert not explorer._curves["teacher", 1].get_visible()
    assert explorer._shown.get_array().shape == (4, 4, 3) and explorer._shown.get_array().max() <= 1


@pytest.mark.parametrize(
    ("data", "networks", "steps", "message"),
    [
        (image_set(labels=None), (network(), network()), 4, "data must have a label for every image"),
        (image_set(labels=(-1, 0, 1)), (network(), network()), 4, "data must have a label for every image"),
        (image_set(count=21), (network(), network()), 4, "data has 21 images, wanted 2 to 20"),
        (image_set(count=1), (network(), network()), 4, "data has 1 images, wanted 2 to 20"),
        (image_set(), (network(classes=5), network()), 4, "teacher has 5 classes, data 4"),
        (image_set(), (network(), network(classes=3)), 4, "student has 3 classes, data 4"),
        (image_set(labels=(0, 1), classes=CLASSES[:2]), (network(classes=2), network(classes=2)), 4, "at least 3"),
        (image_set(), (network(), network()), 1, "steps is 1, wanted at least 2"),
    ],
)
def test_what_does_not_fit(data, networks, steps, message):
    with pytest.raises(ValueError, match=message):
        MixupExplorer(data, *networks, steps=steps)


def test_networks_that_answer_with_nan():
    broken = network()
    nn.init.constant_(broken[1].weight, torch.nan)
    with pytest.raises(ValueError, match="student answers with values that are not finite"):
        MixupExplorer(image_set(), network(), broken, steps=4)
