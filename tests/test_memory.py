"""A remembered answer is the live one, whatever the order, and never one to another question."""

import pytest
import torch
from torch import nn

from kdtutor import memory
from kdtutor.data import ImageSet
from kdtutor.memory import LiveTeacher, RememberedTeacher
from kdtutor.methods import build
from kdtutor.models import tap
from kdtutor.train import distill, make_batch, remember_teacher, stream

FEATURES = ("feature_map", "embedding")


def live(teacher) -> LiveTeacher:
    return LiveTeacher(tap(teacher, FEATURES, who="teacher"))


@pytest.mark.parametrize("batch_size", [5, 16, 96])
@pytest.mark.parametrize(("views", "crop_padding", "flip"), [(1, 0, False), (2, 0, True), (3, 2, True), (4, 1, False)])
def test_remembered_answers_are_the_live_ones(toy, teacher, settings, change, batch_size, views, crop_padding, flip):
    settings = change(settings, views=views, crop_padding=crop_padding, flip=flip, batch_size=batch_size)
    remembered = remember_teacher(teacher, toy, settings, FEATURES, progress=False)
    asked = live(teacher)
    for epoch in range(views + 1):
        for seed in (0, 1):
            order = torch.randperm(len(toy), generator=stream(seed, epoch))
            for step in range(len(toy) // batch_size):
                batch = make_batch(toy, order, step, epoch, settings)
                ours, theirs = remembered(batch), asked(batch)
                torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-5, atol=1e-5)
                for name in FEATURES:
                    torch.testing.assert_close(ours.features[name], theirs.features[name], rtol=1e-5, atol=1e-5)


def test_answers_differ_between_images_and_views(toy, teacher, settings):
    """Else the test above would prove nothing."""
    remembered = remember_teacher(teacher, toy, settings, progress=False)
    assert len(remembered.logits.unique(dim=0)) == 2 * len(toy)


def test_more_images_than_a_chunk(toy, teacher, settings, monkeypatch):
    monkeypatch.setattr(memory, "CHUNK", 7)
    small = remember_teacher(teacher, toy, settings, FEATURES, progress=False)
    monkeypatch.setattr(memory, "CHUNK", 500)
    large = remember_teacher(teacher, toy, settings, FEATURES, progress=False)
    torch.testing.assert_close(small.logits, large.logits)
    torch.testing.assert_close(small.features["feature_map"], large.features["feature_map"])


def test_the_same_bits_each_time(toy, teacher, settings):
    one, two = (remember_teacher(teacher, toy, settings, FEATURES, progress=False) for _ in range(2))
    assert torch.equal(one.logits, two.logits)
    assert all(torch.equal(one.features[name], two.features[name]) for name in FEATURES)


def test_virtual_images_are_asked_live(toy, teacher, settings):
    remembered = remember_teacher(teacher, toy, settings, progress=False)
    batch = make_batch(toy, torch.arange(96), 0, 0, settings)
    mixed = build("stkd").prepare(batch, stream(0))
    torch.testing.assert_close(remembered(mixed).logits, live(teacher)(mixed).logits)
    assert not torch.allclose(remembered(mixed).logits, remembered(batch).logits, atol=1e-2)


def test_interpolated_stkd_needs_no_live_answer(toy, teacher, settings):
    remembered = remember_teacher(teacher, toy, settings, progress=False)
    method = build("stkd(target='interpolated')")
    batch = method.prepare(make_batch(toy, torch.arange(96), 0, 0, settings), stream(0))
    asked = live(teacher)(batch)
    remembered.live.network = None  # nobody there to be asked
    torch.testing.assert_close(remembered(batch).logits, asked.logits, rtol=1e-5, atol=1e-5)
    student = asked._replace(logits=torch.randn_like(asked.logits))
    torch.testing.assert_close(method(student, remembered(batch), batch)["stkd"], method(student, asked, batch)["stkd"])


def test_answers_carry_no_gradient_and_the_teacher_is_in_eval_mode(toy, teacher, settings):
    teacher.train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    remembered = remember_teacher(teacher, toy, settings, FEATURES, progress=False)
    batch = make_batch(toy, torch.arange(96), 0, 0, settings)
    for answer in (remembered(batch), live(teacher)(batch)):
        assert not answer.logits.requires_grad and not answer.features["feature_map"].requires_grad
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} changed while the teacher was asked"


# --- Never an answer to another question ---


def refused(
    remembered: RememberedTeacher, student, data, settings, method="kd", match="remembers answers to other data"
):
    with pytest.raises(ValueError, match=match):
        distill(student(), data, method, remembered, settings, progress=False)


def test_other_weights_are_refused(toy, teacher, settings, student):
    remembered = remember_teacher(teacher, toy, settings, progress=False)
    distill(student(), toy, "kd", remembered, settings, progress=False)
    with torch.no_grad():
        teacher.classifier.bias[2] += 1e-6
    refused(remembered, student, toy, settings)


def test_other_batchnorm_statistics_are_refused(toy, teacher, settings, student):
    remembered = remember_teacher(teacher, toy, settings, progress=False)
    teacher.features[1].running_mean[0] += 1e-6
    refused(remembered, student, toy, settings)


def test_other_images_are_refused(toy, teacher, settings, student, change):
    remembered = remember_teacher(teacher, toy, settings, progress=False)
    images = toy.images.clone()
    images[17, 0, 3, 3] ^= 1
    refused(remembered, student, change(toy, images=images), settings)
    refused(remembered, student, toy.take(torch.arange(96).flip(0)), settings)
    refused(remembered, student, toy.subset(64), settings)


def test_another_normalisation_is_refused(toy, teacher, settings, student, change):
    remembered = remember_teacher(teacher, toy, settings, progress=False)
    refused(remembered, student, change(toy, mean=(0.5,)), settings)
    refused(remembered, student, change(toy, std=(0.5,)), settings)


def test_another_augmentation_is_refused(toy, teacher, settings, student, change):
    remembered = remember_teacher(teacher, toy, settings, progress=False)
    refused(remembered, student, toy, change(settings, crop_padding=1))
    refused(remembered, student, toy, change(settings, flip=False))
    refused(remembered, student, toy, change(settings, views=3))
    refused(remembered, student, toy, change(settings, views=None))


def test_labels_seed_and_batch_size_may_change(toy, teacher, settings, student, change):
    remembered = remember_teacher(teacher, toy, settings, progress=False)
    other = change(settings, seed=7, batch_size=32, lr=0.01, epochs=1)
    distill(student(), toy.without_labels(), "kd", remembered, other, progress=False)


def test_a_feature_that_was_not_remembered_is_named(toy, teacher, settings, student):
    remembered = remember_teacher(teacher, toy, settings, ("embedding",), progress=False)
    refused(remembered, student, toy, settings, "kd + sp", match="remembers no feature_map")


# --- What cannot be remembered ---


def test_without_fixed_views_there_is_nothing_to_remember(toy, teacher, settings, change):
    with pytest.raises(ValueError, match=r"settings\.views is None"):
        remember_teacher(teacher, toy, change(settings, views=None), progress=False)


class Broken(nn.Module):
    """Answers NaN, or has a NaN among its features, for one image alone: the only one with a black corner."""

    def __init__(self, where: str):
        super().__init__()
        self.hidden, self.out, self.where = nn.Flatten(), nn.Linear(64, 4), where

    def forward(self, x):
        bad = torch.where(x[:, :1, 0, 0] < -2.0, float("nan"), 0.0)
        hidden = self.hidden(x) + (bad if self.where == "features" else 0)
        return self.out(hidden.nan_to_num(0)) + (bad if self.where == "logits" else 0)


@pytest.mark.parametrize("where", ["logits", "features"])
def test_a_teacher_that_answers_nan_is_refused(toy, settings, change, where):
    images = toy.images.clamp(min=60)
    images[70, 0, 0, 0] = 0
    settings = change(settings, flip=False)
    taps = {"embedding": "add" if where == "features" else "hidden"}
    with pytest.raises(ValueError, match="teacher answers with logits or features that are not finite"):
        remember_teacher(Broken(where), change(toy, images=images), settings, ("embedding",), taps, progress=False)
    remember_teacher(Broken(where), change(toy, images=toy.images.clamp(min=60)), settings, progress=False)


def test_too_large_to_remember_says_how_large(toy, settings, monkeypatch, teacher):
    images = toy.images[:1].expand(2**20, 1, 8, 8)
    crowd = ImageSet(images, None, (), toy.mean, toy.std, "crowd")
    monkeypatch.setattr(memory.os, "sysconf", lambda name: {"SC_AVPHYS_PAGES": 2**18, "SC_PAGE_SIZE": 2**12}[name])
    # Two views of 2^20 images, for each 4 logits and 32 + 32 * 2 * 2 features of 4 bytes: 1.28 GiB of the 1 GiB free.
    with pytest.raises(MemoryError, match=r"takes 1\.3 GiB and 1\.0 GiB are free.*views=None"):
        remember_teacher(teacher, crowd, settings, FEATURES, progress=False)
