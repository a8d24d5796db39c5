"""The temperature explorer without a browser: what it computes, draws and says."""

import base64
import html
import math
import re

import numpy as np
import pytest
import torch

from kdtutor.data import ImageSet
from kdtutor.explorers import TemperatureExplorer


def image_set(count=6, channels=1, classes=("left", "right", "up", "down"), labelled=True):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % len(classes) if labelled else None
    return ImageSet(images, labels, classes, (0.5,) * channels, (0.5,) * channels, "toy")


def logits(count=6, classes=4, seed=1, scale=4.0):
    return scale * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def both():
    return TemperatureExplorer(image_set(), logits(seed=1), logits(seed=2))


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def widths(explorer, who):
    return np.array([bar.get_width() for bar in explorer._bars[who]])


def test_bars_are_softmax_at_the_chosen_temperature_of_the_chosen_image(both):
    for number, temperature in ((0, 1.0), (3, 4.0), (5, 0.25), (2, 64.0)):
        both.image.value, both.temperature.value = number, temperature
        for who, seed in (("teacher", 1), ("student", 2)):
            wanted = softmax(logits(seed=seed)[number].double().numpy() / temperature)
            np.testing.assert_allclose(widths(both, who), 100 * wanted, rtol=1e-6, atol=1e-9)


def test_numbers_below_the_picture(both):
    both.image.value, both.temperature.value = 4, 2.0
    p_t, p_s = (softmax(logits(seed=seed)[4].double().numpy() / 2.0) for seed in (1, 2))
    said = html.unescape(re.sub("<[^>]*>", "", both.numbers.value))

    kl = sum(t * math.log(t / s) for t, s in zip(p_t, p_s, strict=True))
    gradient = math.sqrt(sum((2.0 * (s - t)) ** 2 for t, s in zip(p_t, p_s, strict=True)))  # (1.3) with B = 1
    assert "T 2.00" in said
    assert f"KL × T² {4 * kl:.3f} nats" in said
    assert f"gradient's length {gradient:.3f}" in said
    for who, p in (("teacher", p_t), ("student", p_s)):
        bits = -sum(value * math.log2(value) for value in p)
        top = ("left", "right", "up", "down")[int(p.argmax())]
        assert f"{who} {top} {100 * p.max():.1f} %, entropy {bits:.2f} bits" in said


def test_a_move_changes_picture_numbers_and_words_but_rebuilds_nothing(both):
    artists = list(both.figure.findobj())
    before = both.png, both.picture.value, both.numbers.value, both.alt
    both.temperature.value = 8.0
    after = both.png, both.picture.value, both.numbers.value, both.alt
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert [id(artist) for artist in both.figure.findobj()] == [id(artist) for artist in artists]
    both.image.value = 1
    assert both.png != after[0]
    np.testing.assert_array_equal(np.asarray(both._shown.get_array()), image_set().images[1, 0].numpy())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_the_ends_of_the_sliders(scale):
    explorer = TemperatureExplorer(image_set(), logits(scale=scale), logits(seed=2, scale=scale))
    for number in (explorer.image.min, explorer.image.max):
        # the ends of a logarithmic slider are exponents of its base
        for exponent in (explorer.temperature.min, explorer.temperature.max):
            explorer.image.value, explorer.temperature.value = number, explorer.temperature.base**exponent
            assert np.isfinite(widths(explorer, "teacher")).all()
            assert "nan" not in explorer.numbers.value and "inf" not in explorer.numbers.value


def test_alt_text_says_what_is_shown_and_no_number_of_a_network():
    one, other = (TemperatureExplorer(image_set(), logits(seed=seed)) for seed in (1, 2))
    for explorer in (one, other):
        explorer.image.value, explorer.temperature.value = 2, 4.0
    assert one.png != other.png
    assert one.alt == other.alt  # stored as text, and held against the next run of the notebook
    assert "Image 2, up" in one.alt and "temperature 4.00" in one.alt and "student" not in one.alt


def test_what_stands_in_where_widgets_cannot_run(both):
    data, metadata = both._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"] == repr(both) == both.alt
    assert metadata["image/png"]["alt"] == both.alt
    assert "application/vnd.jupyter.widget-view+json" in data


def test_class_names_cannot_break_the_page():
    classes = ('"><script>', "a & b", "<i>", "d")
    explorer = TemperatureExplorer(image_set(classes=classes), logits(), logits(seed=2))
    for number in range(4):
        explorer.image.value = number
        for page in (explorer.picture.value, explorer.numbers.value):
            assert "<script>" not in page and "<i>" not in page
        assert html.escape(classes[number]) in explorer.picture.value


def test_css_classes_and_keyboard_order(both):
    assert {"kdtutor-explorer", "kdtutor-temperature"} <= set(both._dom_classes)
    assert list(both.children[:2]) == [both.image, both.temperature]


def test_colour_images_and_images_without_labels():
    explorer = TemperatureExplorer(image_set(channels=3, labelled=False), logits())
    assert np.asarray(explorer._shown.get_array()).shape == (8, 8, 3)
    assert "without label" in explorer.alt
    assert TemperatureExplorer(image_set(count=1), logits(count=1)).image.max == 0


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (logits(count=5), ValueError, r"student_logits has shape \(5, 4\), wanted \(6, 4\)"),
        (logits(classes=3), ValueError, r"student_logits has shape \(6, 3\), wanted \(6, 4\)"),
        (logits().long(), TypeError, "student_logits must have a floating-point dtype"),
        ([[1.0]], TypeError, "student_logits must be a torch.Tensor"),
        (logits().fill_(float("nan")), ValueError, "student_logits has values that are not finite"),
    ],
)
def test_logits_that_do_not_fit(bad, error, message):
    with pytest.raises(error, match=message):
        TemperatureExplorer(image_set(), logits(), bad)
    with pytest.raises(error, match=message.replace("student", "teacher")):
        TemperatureExplorer(image_set(), bad)
