"""What the Fashion-MNIST studies share: their images, their teachers' memory, and how a student becomes a row."""

import dataclasses
from functools import cache

import torch

from .. import data, methods, models, teachers
from ..data import ImageSet
from ..evaluate import evaluate, predict
from ..memory import RememberedTeacher
from ..methods import Combined, Method
from ..settings import Settings
from ..train import distill, remember_teacher
from .study import Row

VALIDATION = 500  # images a class, taken from the training images; all choices are made on them

SEEDS = range(5)


@cache
def pool() -> ImageSet:
    """The 55,000 images that students may be trained on."""
    return _split()[0]


@cache
def validation() -> ImageSet:
    """The 5,000 images that weights are chosen on."""
    return _split()[1]


@cache
def test() -> ImageSet:
    return data.load("fashion-mnist").test


@cache
def _split() -> tuple[ImageSet, ImageSet]:
    train = data.load("fashion-mnist").train
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    held_out = torch.cat([order[train.labels[order] == c][:VALIDATION] for c in range(train.num_classes)])
    kept = torch.ones(len(train), dtype=torch.bool)
    kept[held_out] = False
    return train.take(kept.nonzero()[:, 0]), train.take(held_out.sort().values)


@cache
def subset(count: int) -> ImageSet:
    """The same `count` images of the pool every time, equally many of each class."""
    return pool().subset(count)


_memories: dict[tuple, object] = {}


def memory(teacher: str, train: ImageSet, settings: Settings, features: tuple[str, ...]):
    """A shipped teacher's answers to `train`, made once in a process for all students that need them."""
    features = ("feature_map", "embedding") if features else ()  # all or none, so that nothing is asked twice
    key = (teacher, train.fingerprint(), features, settings.views, settings.flip)
    if key not in _memories:
        if features:
            network = teachers.load_teacher(teacher)
            _memories[key] = remember_teacher(network, train, settings, features, progress=False)
        else:
            _memories[key] = teachers.remembered(teacher, train, settings)
    return _memories[key]


@cache
def _test_logits(teacher: str):
    return predict(teachers.load_teacher(teacher), test())


def train_student(
    method: "str | Method | Combined",
    seed: int,
    train: ImageSet,
    epochs: int,
    student: str = "cnn4k",
    teacher: str = "base",
    answers: RememberedTeacher | None = None,
) -> tuple[Row, torch.nn.Module]:
    """A student, and its row: accuracy on validation images, everything on test images, its method's gradient share.

    Args:
        answers: of another teacher than the shipped one.
    """
    method, settings = methods.build(method), Settings(epochs=epochs, seed=seed)
    network = models.build(student, num_classes=10, in_channels=1, seed=seed)
    if answers is None and method.needs_teacher:
        answers = memory(teacher, train, settings, method.features)
    run = distill(network, train, method, answers, settings, progress=False)
    shares = [sum(epoch[name] for name in epoch if _is_own_share(name)) for epoch in run.epochs]
    row = {
        "validation_top1": evaluate(network, validation())["top1"],
        **evaluate(network, test(), _test_logits(teacher)),
        "share": sum(shares) / len(shares),
        "seconds": sum(epoch["seconds"] for epoch in run.epochs),
    }
    return row, network


def _is_own_share(name: str) -> bool:
    return name.startswith("share_") and name != "share_ce"


def scaled(method: "str | Method | Combined", factor: float) -> "Method | Combined":
    """A method with every weight of its own times `factor`; cross-entropy keeps its weight, schedules their shape."""
    method = methods.build(method)
    for part in method.methods if isinstance(method, Combined) else [method]:
        for field in dataclasses.fields(part):
            if field.name.endswith("weight") and field.name != "ce_weight":
                weight = getattr(part, field.name)
                if callable(weight):
                    weight = dataclasses.replace(weight, weight=factor * weight.weight)
                else:
                    weight = factor * weight
                setattr(part, field.name, weight)
    return method
