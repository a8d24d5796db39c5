"""The teachers that ship: what the manifest says of them is true, and nothing else is loaded."""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from kdtutor import data, models, teachers
from kdtutor.evaluate import evaluate, predict
from kdtutor.settings import Settings
from kdtutor.teachers import TEACHERS, TeacherError, load_teacher, manifest, remembered, shipped_logits
from kdtutor.train import distill, remember_teacher

FOLDER = Path(__file__).parents[1] / "data" / "teachers"
ENTRIES = manifest() if (FOLDER / "manifest.json").exists() else {}

pytestmark = pytest.mark.skipif(not ENTRIES, reason="data/teachers/manifest.json is not there: run kdtutor teacher")


@pytest.fixture(scope="module")
def fashion():
    return data.load("fashion-mnist")


@pytest.mark.parametrize("name", ENTRIES)
def test_files_are_those_of_the_manifest(name):
    entry = ENTRIES[name]
    for kind in ("weights", "logits"):
        assert hashlib.sha256((FOLDER / entry[kind]).read_bytes()).hexdigest() == entry[f"{kind}_sha256"]
    assert entry["model"] == TEACHERS[name].model
    assert models.count_parameters(load_teacher(name)) == entry["parameters"]


@pytest.mark.parametrize("name", ENTRIES)
def test_accuracy_measured_again(name, fashion):
    """Other machines and thread counts round otherwise: one or two images may fall on the other side."""
    measured = evaluate(load_teacher(name), fashion.test)
    assert measured["top1"] == pytest.approx(ENTRIES[name]["test"]["top1"], abs=3e-4)
    assert measured["nll"] == pytest.approx(ENTRIES[name]["test"]["nll"], abs=1e-3)
    assert measured["top1"] >= 0.93


def test_the_strong_one_is_larger_and_stronger():
    if len(ENTRIES) < 2:
        pytest.skip("only one teacher is in the manifest")
    base, strong = ENTRIES["base"], ENTRIES["strong"]
    assert strong["test"]["top1"] > base["test"]["top1"] and strong["parameters"] > base["parameters"]


def test_the_weights_take_at_most_8_mb():
    assert sum((FOLDER / entry["weights"]).stat().st_size for entry in ENTRIES.values()) <= 8e6


@pytest.mark.parametrize("name", ENTRIES)
def test_shipped_logits_are_the_teachers_answers(name, fashion):
    shipped = shipped_logits(name)
    assert shipped.shape == (2, 60_000, 10) and shipped.dtype == torch.float32
    some = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))[:400]
    images = fashion.train.take(some)
    teacher = load_teacher(name)
    for view in (0, 1):
        pixels = images.images if view == 0 else torch.flip(images.images, dims=[3])
        seen = data.ImageSet(pixels, images.labels, images.classes, images.mean, images.std, "some")
        answers = predict(teacher, seen)
        # fp16 keeps 11 bits: a relative 2^-11 at most, and a little for float32's own rounding.
        torch.testing.assert_close(shipped[view, some], answers, rtol=2**-11, atol=2e-3)
    assert not torch.allclose(shipped[0], shipped[1], atol=0.1), "a mirror image is another image"


def test_a_teacher_is_frozen_in_eval_mode_and_the_same_each_time():
    one, two = load_teacher(), load_teacher()
    assert not one.training
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The shipped folder as a copy that may be damaged."""
    shutil.copytree(FOLDER, tmp_path / "teachers", ignore=shutil.ignore_patterns("run-*"))
    monkeypatch.setattr(teachers.data, "shipped", lambda relative: tmp_path / relative)
    return tmp_path / "teachers"


@pytest.mark.parametrize("damage", ["bit", "truncated", "empty", "other", "missing"])
@pytest.mark.parametrize(
    ("file", "read"), [("base.safetensors", load_teacher), ("base-logits.safetensors", shipped_logits)]
)
def test_a_tampered_file_is_refused_by_name(copied, file, read, damage):
    if "base" not in ENTRIES:
        pytest.skip("the base teacher is not in the manifest")
    path = copied / file
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    damaged = {"bit": bytes(content), "truncated": content[:-1], "empty": b"", "other": b"PK\x03\x04"}
    path.unlink() if damage == "missing" else path.write_bytes(damaged[damage])
    with pytest.raises(TeacherError, match=rf"{file} is not the file its manifest describes"):
        read("base")


def test_an_unknown_teacher_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="teacher is 'bass', which is not known; did you mean 'base'"):
        load_teacher("bass")


def test_a_teacher_is_trained_recorded_and_gone_on_with(tmp_path, monkeypatch, toy, toy_test):
    """The whole of `kdtutor teacher` on little data: interrupted once, then finished, then loaded from its manifest."""
    monkeypatch.chdir(tmp_path)  # the run's own record goes into runs/
    splits = data.Splits(toy, toy_test, "toy")
    settings = teachers.Settings(epochs=2, batch_size=16, lr=0.05, device="cpu", views=None, crop_padding=1)
    monkeypatch.setattr(teachers.data, "load", lambda name: splits)
    monkeypatch.setitem(teachers.TEACHERS, "tiny", teachers.Recipe("cnn4k", settings))
    build = models.build
    monkeypatch.setattr(teachers.models, "build", lambda name, num_classes, **options: build(name, 4, **options))

    distill = teachers.distill

    def stopped(*args, **options):
        return dataclasses.replace(distill(*args, **options), interrupted=True)

    monkeypatch.setattr(teachers, "distill", stopped)
    with pytest.raises(KeyboardInterrupt):
        teachers.train_teacher("tiny", tmp_path / "teachers", progress=False)
    assert not (tmp_path / "teachers" / "tiny.safetensors").exists()
    monkeypatch.setattr(teachers, "distill", distill)
    entry = teachers.train_teacher("tiny", tmp_path / "teachers", progress=False)

    monkeypatch.setattr(teachers.data, "shipped", lambda relative: tmp_path / relative)
    assert manifest()["tiny"]["weights_sha256"] == entry["weights_sha256"]
    teacher = load_teacher("tiny")
    assert entry["test"]["top1"] == pytest.approx(evaluate(teacher, toy_test)["top1"], abs=1e-5)
    logits = shipped_logits("tiny")
    torch.testing.assert_close(logits[0], predict(teacher, toy), rtol=1e-3, atol=2e-3)
    mirrored = dataclasses.replace(toy, images=toy.images.flip(3))
    torch.testing.assert_close(logits[1], predict(teacher, mirrored), rtol=1e-3, atol=2e-3)


# --- The shipped answers as a remembered teacher ---


@pytest.mark.parametrize("flip", [True, False])
def test_remembered_answers_are_the_networks_own(fashion, flip):
    settings = Settings(views=4, flip=flip, device="cpu")
    some = fashion.train.take(torch.tensor([59_999, 7, 7, 31_415, 0]))
    ours = remembered("base", some, settings)
    asked = remember_teacher(load_teacher("base"), some, settings, progress=False)
    torch.testing.assert_close(ours.logits, asked.logits, rtol=2e-3, atol=1e-2)  # they are shipped in half precision
    assert ours.key == asked.key
    assert torch.equal(ours.logits[:5], ours.logits[5:10]) is not flip


def test_remembered_answers_teach_a_student(fashion):
    train, settings = fashion.train.subset(200), Settings(epochs=1, batch_size=50, device="cpu")
    student = models.build("cnn4k", 10, 1, seed=0)
    for method in ("kd", "stkd"):  # stkd's virtual images are asked live
        run = distill(student, train, method, remembered("base", train, settings), settings, progress=False)
        assert run.epochs[-1][f"loss_{method}"] > 0


def test_what_was_never_answered_is_refused(fashion):
    few = fashion.train.take([0, 1])
    for settings in (Settings(crop_padding=2), Settings(views=None)):
        with pytest.raises(ValueError, match=f"crop_padding={settings.crop_padding} and views={settings.views}"):
            remembered("base", few, settings)
    other = dataclasses.replace(few, images=few.images.flip(-1))
    with pytest.raises(ValueError, match="train has image 0, which is none of Fashion-MNIST's"):
        remembered("base", other, Settings())
