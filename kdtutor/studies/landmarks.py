"""Kernel transfer with other landmarks than class centres, and with one batch's similarities alone.

A landmark is the mean feature of a group of training images, as of the epoch before: a class, a cluster, or one
image. The groups are the same for teacher and student.
"""

from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from .. import losses, teachers
from ..figures import intervals
from ..methods import CE, Kernel, Method
from . import tuning
from .similarities import embed
from .students import subset, test, train_student
from .study import Row, Study
from .summary import MEASURED, answer, bars, difference, estimate, estimates, listed, measured, table, top1

IMAGES, EPOCHS = 12_000, 8
GROUPS = ("class centres, K = 10", "k-means, K = 10", "random points, K = 10", "random groups, K = 10",
          "sub-centres, K = 40", "k-means, K = 40")  # fmt: skip
ONE_BATCH, NONE, CENTRES = "one batch", "none: ce", GROUPS[0]


@dataclass
class GroupKernel(Kernel):
    """Kernel transfer whose landmarks are the means of given groups of images."""

    scale_free: bool = True
    groups: Tensor | None = field(default=None, repr=False)  # (N,): the group of each image, -1 for none

    def landmark_groups(self, batch, num_classes):
        return self.groups[batch.index], int(self.groups.max()) + 1


@dataclass
class BatchKernel(Method):
    """The same discrepancy between one batch's own similarities: the batch is its own set of landmarks."""

    name = "batch_kernel"
    paper = Kernel.paper
    features = ("embedding",)
    weight: float = 1.0

    def distill(self, student, teacher, batch):
        f_s, f_t = (out.features["embedding"].flatten(1) for out in (student, teacher))
        return {"kernel": (self.weight, losses.kernel_transfer_loss(f_s, f_t, f_s, f_t, scale_free=True))}


@cache
def _teacher_features() -> tuple[Tensor, Tensor]:
    """Of the training images and of 4,000 test images."""
    network = teachers.load_teacher("base")
    return embed(network, subset(IMAGES), "embedding"), embed(network, test().subset(4000), "embedding")


@cache
def groups_of(name: str) -> Tensor:
    """The group of each training image, -1 for none: (N,)."""
    from sklearn.cluster import KMeans

    labels, g = subset(IMAGES).labels, torch.Generator().manual_seed(3)
    count = int(name.rsplit(" ", 1)[1])
    if name.startswith("class"):
        return labels
    if name.startswith("random groups"):
        return torch.randint(count, (IMAGES,), generator=g)
    if name.startswith("random points"):
        groups = torch.full((IMAGES,), -1)
        groups[torch.randperm(IMAGES, generator=g)[:count]] = torch.arange(count)
        return groups
    features = _teacher_features()[0].numpy()
    if name.startswith("k-means"):
        return torch.from_numpy(KMeans(count, n_init=4, random_state=0).fit_predict(features)).long()
    each = count // 10
    groups = torch.empty(IMAGES, dtype=torch.int64)
    for c in range(10):
        own = (labels == c).numpy()
        inner = KMeans(each, n_init=4, random_state=0).fit_predict(features[own])
        groups[torch.from_numpy(own)] = each * c + torch.from_numpy(inner).long()
    return groups


@cache
def kernel_error(name: str) -> float | str:
    """Relative Frobenius error of the teacher's kernel of 4,000 test images, rebuilt from these landmarks."""
    if name == ONE_BATCH:
        return ""
    train, features = _teacher_features()
    sums, counts = losses.class_sums(train, groups_of(name), int(groups_of(name).max()) + 1)
    cross, core = losses.nystrom_kernel(features.double(), (sums / counts[:, None]).double())
    exact = features.double() @ features.double().T
    return float((cross @ core @ cross.T - exact).norm() / exact.norm())


def _method(name: str, weight: float) -> Method:
    return BatchKernel(weight=weight) if name == ONE_BATCH else GroupKernel(weight=weight, groups=groups_of(name))


@cache
def _relative_gradient(name: str) -> float:
    return tuning.relative_gradient(_method(name, 1.0), subset(IMAGES))


def _trials(rows):
    groups = [{"landmarks": name} for name in (*GROUPS, ONE_BATCH)]
    return tuning.trials({"landmarks": NONE}, groups, rows, chosen_ratios)


def chosen_ratios(rows) -> dict[str, float]:
    """For each kind of landmarks, the ratio with the best accuracy on validation images over the tuning seeds."""
    return tuning.chosen_ratios(rows[rows["landmarks"] != NONE], ["landmarks"])


def _train(trial: Row) -> Row:
    name = trial["landmarks"]
    if name == NONE:
        return {"weight": 0.0, "kernel_error": "", **train_student(CE(), trial["seed"], subset(IMAGES), EPOCHS)[0]}
    weight = trial["ratio"] / _relative_gradient(name)
    row = train_student(_method(name, weight), trial["seed"], subset(IMAGES), EPOCHS)[0]
    return {"weight": weight, "kernel_error": kernel_error(name), **row}


def _summarize(rows):
    ratios, errors = chosen_ratios(rows), rows.groupby("landmarks")["kernel_error"].mean()
    ce = rows[rows["landmarks"] == NONE]
    at_chosen = rows["ratio"] == rows["landmarks"].map(ratios)
    found = estimates(rows[at_chosen], "landmarks", ce)
    shown = {name: "" if name == ONE_BATCH else f"{errors[name]:.4f}" for name in found}
    lines = [[name, shown[name], f"{ratios[name]:g}", *measured(e)] for name, e in found.items()]
    own = {name: some for name, some in rows[at_chosen].groupby("landmarks", sort=False)}
    against = {name: estimate(own[CENTRES], some) for name, some in own.items() if name != CENTRES}
    better, worse = (
        listed(name for name, e in against.items() if e.verdict == verdict) for verdict in ("higher", "lower")
    )
    return [
        f"Cross-entropy: {top1(ce)}. *Error*: of the teacher's kernel of 4,000 test images, rebuilt from landmarks. "
        "*Ratio*: of the term's gradient to cross-entropy's before training, chosen on validation images.",
        table(["landmarks", "error", "ratio", *MEASURED], lines),
        "Class centres less each of the others, paired: "
        + "; ".join(f"{name} {difference(e)}" for name, e in against.items())
        + ".",
        f"**Verdict.** The full matrix beats one batch's: {answer(against[ONE_BATCH], 'higher')}. Class centres are "
        f"better than: {better}; worse than: {worse}.",
    ], {"landmarks": intervals({"top-1": bars(found)}, "points over cross-entropy")}


STUDY = Study(
    "landmarks",
    "Are class centres better landmarks than others, and is the full matrix better than one batch's?",
    _trials,
    _train,
    {"images": IMAGES, "epochs": EPOCHS, "student": "cnn4k", "teacher": "base", "ratios": tuning.RATIOS},
    "Landmarks",
    "Kernel transfer: the full matrix beats a mini-batch's, and class centres are the landmarks to take.",
    _summarize,
)
