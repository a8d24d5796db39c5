"""Students of three teachers of growing strength: does KL fall behind as the teacher grows, and do correlations not?"""

from dataclasses import dataclass
from functools import cache

import torch

from .. import losses, models
from ..evaluate import evaluate
from ..figures import trends
from ..methods import CMKD, Method, Weight, build
from ..settings import Settings
from ..train import distill, remember_teacher
from . import students
from .students import SEEDS, subset, test, train_student
from .study import Row, Study
from .summary import Estimate, answer, bars, difference, estimate, estimates, table, top1

IMAGES, EPOCHS = 12_000, 8
TEACHERS = ("weak", "base", "strong")


@dataclass
class OneCorrelation(Method):
    """Cross-entropy and one correlation of the logits alone, "pearson" or "spearman"."""

    name = "correlation"
    paper = CMKD.paper
    exact = False
    kind: str = "pearson"
    weight: Weight = 2.0

    def distill(self, student, teacher, batch):
        correlation = losses.pearson_correlation if self.kind == "pearson" else losses.spearman_correlation
        return {self.kind: (self.weight, (1 - correlation(student.logits, teacher.logits.detach())).mean())}


METHODS = {
    "ce": lambda: build("ce"),
    "kl": lambda: build("kd"),
    "dist": lambda: build("dist"),
    "pearson": lambda: OneCorrelation(kind="pearson"),
    "spearman": lambda: OneCorrelation(kind="spearman"),
    "cmkd": lambda: build("cmkd"),
    "cmkd, fixed weights": lambda: build("cmkd(dynamic=False)"),
    "cmkd, turned round": lambda: build("cmkd(hard_samples_favor='pearson')"),
}


@cache
def _weak() -> torch.nn.Module:
    """A teacher of 14 thousand parameters, trained on the pool for four epochs."""
    network = models.build("cnn14k", 10, 1, seed=50)
    distill(network, students.pool(), "ce", settings=Settings(epochs=4, seed=50), progress=False)
    return network.eval()


@cache
def _weak_memory():
    return remember_teacher(_weak(), subset(IMAGES), Settings(epochs=EPOCHS), progress=False)


def _trials(rows):
    yield from ({"teacher": "none", "method": "ce", "seed": seed} for seed in SEEDS)
    for teacher in TEACHERS:
        for method in METHODS:
            if method != "ce":
                yield from ({"teacher": teacher, "method": method, "seed": seed} for seed in SEEDS)


def _train(trial: Row) -> Row:
    method, seed = METHODS[trial["method"]](), trial["seed"]
    teacher = trial["teacher"] if trial["teacher"] in ("base", "strong") else "base"
    answers = _weak_memory() if trial["teacher"] == "weak" else None
    row = train_student(method, seed, subset(IMAGES), EPOCHS, teacher=teacher, answers=answers)[0]
    if answers is not None:
        del row["agreement"]  # which train_student measures against a shipped teacher
    return {"teacher_top1": _teacher_top1(trial["teacher"]), **row}


@cache
def _teacher_top1(teacher: str) -> float | str:
    if teacher == "none":
        return ""
    if teacher == "weak":
        return evaluate(_weak(), test())["top1"]
    return evaluate(students.teachers.load_teacher(teacher), test())["top1"]


def _summarize(rows):
    ce = rows[rows["method"] == "ce"]
    strengths = rows[rows["teacher"] != "none"].groupby("teacher", sort=False)["teacher_top1"].first()
    lines, series, grown = [], {}, {}
    for method, own in rows[rows["method"] != "ce"].groupby("method", sort=False):
        found = estimates(own, "teacher", ce)
        grown[method] = estimate(own[own["teacher"] == "strong"], own[own["teacher"] == "base"])
        lines.append([method, *(f"{e.mean:.2f} ({difference(e)})" for e in found.values()), difference(grown[method])])
        series[method] = bars(found)
    strong = rows[rows["teacher"] == "strong"]
    against = {name: estimate(strong[strong["method"] == name], strong[strong["method"] == "kl"]) for name in series}
    columns = [f"{teacher} teacher, {100 * accuracy:.1f} %" for teacher, accuracy in strengths.items()]
    return [
        f"Cross-entropy: {top1(ce)}. In brackets the paired difference from that, in points. *Base to strong*: how the "
        "student changes as the teacher grows.",
        table(["method", *columns, "base to strong"], lines),
        f"**Verdict.** KL falls behind as the teacher grows: {answer(grown['kl'], 'lower')}. Under the strong teacher, "
        f"better than KL: DIST, {answer(against['dist'], 'higher')}; Pearson, {answer(against['pearson'], 'higher')}; "
        f"Spearman, {answer(against['spearman'], 'higher')}; CMKD, {answer(against['cmkd'], 'higher')}. Turned round, "
        f"CMKD makes {difference(_between(strong, 'cmkd, turned round', 'cmkd'))} points of difference, with fixed "
        f"weights {difference(_between(strong, 'cmkd, fixed weights', 'cmkd'))}.",
    ], {"teachers": trends(series, "student's top-1, points over cross-entropy")}


def _between(rows, one: str, other: str) -> Estimate:
    return estimate(rows[rows["method"] == one], rows[rows["method"] == other])


STUDY = Study(
    "correlation",
    "Does KL fall behind as the teacher grows, and do correlations not?",
    _trials,
    _train,
    {"images": IMAGES, "epochs": EPOCHS, "student": "cnn4k", "teachers": TEACHERS},
    "Stronger teachers",
    "CMKD and DIST: a stronger teacher makes no stronger student under KL; matching correlations and ranks helps.",
    _summarize,
)
