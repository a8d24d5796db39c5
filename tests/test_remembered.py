"""A teacher is paid once, and its answers may lie in host memory."""

import pytest
import torch

from kdtutor import compare as module
from kdtutor import memory
from kdtutor.compare import Comparison, compare
from kdtutor.data import Splits
from kdtutor.memory import LiveTeacher
from kdtutor.train import distill, make_batch, remember_teacher

FEATURES = ("feature_map", "embedding")


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """How many images the teacher was asked about, call by call."""
    counts = []
    ask = LiveTeacher.ask

    def counted(self, images):
        counts.append(len(images))
        return ask(self, images)

    monkeypatch.setattr(LiveTeacher, "ask", counted)
    return counts


@pytest.fixture
def comparison(monkeypatch, toy, toy_test, tmp_path):
    """Three seeds, two epochs of six steps, on toy images under a real data set's name."""
    monkeypatch.setattr(module.data, "load", lambda name, root=None: Splits(toy, toy_test, name))

    def of(*methods: str) -> Comparison:
        return Comparison(
            methods=methods,
            seeds=3,
            teacher="cnn14k",
            subset=None,
            epochs=2,
            batch_size=16,
            device="cpu",
            folder=str(tmp_path),
        )

    return of


def test_comparing_over_three_seeds_pays_the_teacher_once(comparison, asked, toy):
    methods = ("ce", "kd", "sp", "affinity", "cmkd", "kernel", "dist", "dkd", "rkd", "pkt", "cc")
    outcome = compare(comparison(*methods), progress=False)
    assert len(outcome.students) == 3 * len(methods)
    probe = 2  # images, to learn the answers' shapes
    assert sum(asked) == probe + 2 * len(toy)  # two views of each image: no method, seed or epoch adds to that


def test_only_virtual_images_are_asked_again(comparison, asked, toy):
    compare(comparison("kd", "stkd", "stkd(target='interpolated')"), progress=False)
    virtual = 3 * 2 * len(toy)  # seeds, epochs
    assert sum(asked) == 2 + 2 * len(toy) + virtual


def test_answers_in_host_memory_are_the_same(toy, teacher, settings, monkeypatch):
    here = remember_teacher(teacher, toy, settings, FEATURES, progress=False)
    monkeypatch.setattr(memory, "_must_lie_on_host", lambda size, device: True)
    there = remember_teacher(teacher, toy, settings, FEATURES, progress=False)
    assert there.on_host and not here.on_host
    batch = make_batch(toy, torch.arange(95, -1, -1), 2, 1, settings)
    batch.index, batch.view = batch.index.clone(), batch.view.clone()
    expected = here(batch)
    batch.index.fill_(0)  # a look-up in host memory must not need what lies on the device
    batch.view.fill_(0)
    found = there(batch)
    assert torch.equal(found.logits, expected.logits)
    assert all(torch.equal(found.features[name], expected.features[name]) for name in FEATURES)


def test_training_from_host_memory_ends_with_the_same_weights(toy, teacher, settings, student, same, monkeypatch):
    one, two = student(), student()
    distill(one, toy, "kd + sp", remember_teacher(teacher, toy, settings, FEATURES, progress=False), settings)
    monkeypatch.setattr(memory, "_must_lie_on_host", lambda size, device: True)
    distill(two, toy, "kd + sp", remember_teacher(teacher, toy, settings, FEATURES, progress=False), settings)
    assert same(one, two) == []


def test_a_gpu_keeps_half_of_its_free_memory_for_training(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    monkeypatch.setattr(memory.os, "sysconf", lambda name: {"SC_AVPHYS_PAGES": 100, "SC_PAGE_SIZE": 100}[name])
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert not memory._must_lie_on_host(500, gpu)
    assert memory._must_lie_on_host(501, gpu)
    assert not memory._must_lie_on_host(501, cpu)  # there it lies on the host anyway
    for device in (gpu, cpu):
        with pytest.raises(MemoryError, match="free in host memory"):
            memory._must_lie_on_host(9001, device)
