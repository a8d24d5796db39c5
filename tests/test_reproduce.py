"""The published benchmark: the recipe is the one that was published, and our numbers stand beside the right ones."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kdtutor import cli, methods, models
from kdtutor.compare import Results, compare
from kdtutor.reproduce import METHODS, PUBLISHED, Reproduction, format_published
from kdtutor.settings import CIFAR, learning_rate


def test_the_recipe_is_the_published_one():
    ours = Reproduction()
    own = ours.settings(0)
    assert own == dataclasses.replace(CIFAR, seed=0)
    assert (own.epochs, own.batch_size, own.momentum, own.weight_decay) == (240, 64, 0.9, 5e-4)
    rates = [learning_rate(own, epoch, 0, 781) for epoch in (0, 149, 150, 179, 180, 209, 210, 239)]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.005, 0.0005, 0.0005, 0.00005, 0.00005])
    assert ours.differs == [] and (ours.data, ours.subset) == ("cifar100", None)


def test_published_pairs_and_methods_exist():
    for pair, numbers in PUBLISHED.items():
        assert all(name in models.MODELS for name in pair.split(":"))
        assert numbers["teacher"] > numbers["ce"] and numbers["kd"] > numbers["ce"]
        assert set(numbers) <= {"teacher", *METHODS}
    for spec in METHODS:
        methods.build(spec)


def test_a_pair_is_two_known_models():
    assert (Reproduction(pair="resnet56:resnet20").teacher, Reproduction().student) == ("resnet56", "resnet8x4")
    with pytest.raises(ValueError, match="pair is 'resnet56', wanted teacher:student"):
        Reproduction(pair="resnet56")
    with pytest.raises(ValueError, match="pair is 'resnet57'"):
        Reproduction(pair="resnet57:resnet20")


def test_our_numbers_beside_the_published_ones():
    rows = [
        {"method": method, "status": "exact", "seed": seed, "top1": 0.7 + 0.01 * seed + bonus, "nll": 1.0, "ece": 0.1,
         "overconfidence": 0.1, "agreement": 0.8, "parameters": 1, "images_per_second": 1.0, "peak_mib": 1.0,
         "seconds": 1.0}
        for seed in range(3) for method, bonus in (("ce", 0.0), ("kd", 0.02), ("cmkd", 0.03))
    ]  # fmt: skip
    reproduction = Reproduction(methods=("ce", "kd", "cmkd"), epochs=3)
    text = format_published(Results(reproduction, pd.DataFrame(rows), pd.DataFrame(), {"top1": 0.8}))
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert lines["teacher"] == ["80.00", "79.42", "+0.58"]
    assert lines["ce"] == ["71.00", "±", "1.00", "72.50", "-1.50"]
    assert lines["kd"] == ["73.00", "±", "1.00", "73.33", "-0.33"]
    assert lines["cmkd"] == ["74.00", "±", "1.00"]
    assert "epochs=3" in text and "cannot be compared" in text


@pytest.fixture
def small(tmp_path):
    """A reproduction in miniature: 32 x 32 colour images of four classes, one epoch."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 12)):
        for c in range(4):
            folder = tmp_path / "images" / split / f"class-{c}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 100, (32, 32, 3)) + 30 * np.array([c, 3 - c, c % 2])
                Image.fromarray(pixels.astype("uint8")).save(folder / f"{i:02}.png")
    return Reproduction(
        pair="resnet8:resnet8", data=str(tmp_path / "images"), epochs=1, batch_size=16, seeds=2,
        methods=("ce", "kd", "sp"), device="cpu", folder=str(tmp_path / "one"),
    )  # fmt: skip


def test_several_students_at_once_are_the_same_students(small, tmp_path, one_thread):
    one = compare(small, progress=False)
    two = compare(dataclasses.replace(small, at_once=2, folder=str(tmp_path / "two")), progress=False)
    timed = ["images_per_second", "peak_mib", "seconds"]
    pd.testing.assert_frame_equal(one.students.drop(columns=timed), two.students.drop(columns=timed))
    assert (tmp_path / "two" / "students.csv").exists()
    assert small.record_folder == dataclasses.replace(small, at_once=3).record_folder
    free = dataclasses.replace(small, folder=None)
    assert free.record_folder == dataclasses.replace(free, at_once=3).record_folder


def test_the_command_trains_the_pair_that_it_was_given(monkeypatch):
    asked = []

    def compared(comparison, progress):
        asked.append(comparison)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_comparison", compared)
    with pytest.raises(KeyboardInterrupt):
        cli.app.cli(args=["reproduce", "cifar100", "--pair", "resnet56:resnet20"])
    assert (asked[0].teacher, asked[0].student) == ("resnet56", "resnet20")
