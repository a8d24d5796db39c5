"""All methods against cross-entropy in four settings where a teacher could matter."""

import dataclasses
from functools import cache, partial

import torch

from ..data import ImageSet
from . import sensitivity
from .students import SEEDS, pool, scaled, train_student
from .study import Row, Study, read

EPOCHS = 4
LABELLED = 550  # 1 % of the pool
WRONG = 0.2
STUDENTS = {"tiny_student": "cnn2k"}  # cnn4k elsewhere


@cache
def few_labels() -> ImageSet:
    """The pool with 55 labels of each class; the other images are there, but not their labels."""
    return pool().without_labels(keep=_labelled())


@cache
def labelled_alone() -> ImageSet:
    return pool().take(_labelled())


def _labelled() -> torch.Tensor:
    labels = pool().labels
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    each = LABELLED // pool().num_classes
    return torch.cat([order[labels[order] == c][:each] for c in range(pool().num_classes)]).sort().values


@cache
def wrong_labels() -> ImageSet:
    """The pool with one label in five replaced by one of the nine others."""
    g = torch.Generator().manual_seed(2)
    wrong = torch.rand(len(pool()), generator=g) < WRONG
    moved = (pool().labels + torch.randint(1, 10, (len(pool()),), generator=g)) % 10
    return dataclasses.replace(pool(), labels=torch.where(wrong, moved, pool().labels))


def _trials(rows, regime: str):
    factors = sensitivity.chosen_factors(read("sensitivity"))
    yield from ({"method": "ce", "factor": 1.0, "seed": seed} for seed in SEEDS)
    if regime == "few_labels":
        yield from ({"method": "ce on the labelled alone", "factor": 1.0, "seed": seed} for seed in SEEDS)
    for method in sensitivity.METHODS:
        spec = sensitivity.SPECS.get(method, method)
        yield from ({"method": spec, "factor": factors[spec], "seed": seed} for seed in SEEDS)


def _train(trial: Row, regime: str) -> Row:
    images = {"few_labels": few_labels, "wrong_labels": wrong_labels}.get(regime, pool)()
    epochs, method = EPOCHS, trial["method"]
    if method == "ce on the labelled alone":
        images, method = labelled_alone(), "ce"
        epochs = EPOCHS * len(pool()) // len(images)  # as many steps
    student = STUDENTS.get(regime, "cnn4k")
    return train_student(scaled(method, trial["factor"]), trial["seed"], images, epochs, student)[0]


QUESTIONS = {
    "all_labels": "Does a teacher help a student of 3.8 thousand parameters that has all labels?",
    "few_labels": "Does it help where 1 % of the images have labels?",
    "wrong_labels": "Does it help where 20 % of the labels are wrong?",
    "tiny_student": "Does it help a student a hundred times smaller than its teacher?",
}

STUDIES = tuple(
    Study(
        name,
        question,
        partial(_trials, regime=name),
        partial(_train, regime=name),
        {"images": 55_000, "epochs": EPOCHS, "student": STUDENTS.get(name, "cnn4k"), "teacher": "base"},
    )
    for name, question in QUESTIONS.items()
)
