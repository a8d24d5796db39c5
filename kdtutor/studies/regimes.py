"""All methods against cross-entropy in four settings where a teacher could matter."""

import dataclasses
from functools import cache, partial

import torch

from ..data import ImageSet
from ..figures import intervals
from . import sensitivity
from .students import SEEDS, pool, scaled, train_student
from .study import Row, Study, read
from .summary import bars, estimates, listed, measured, table, top1

EPOCHS = 3
LABELLED = 550  # 1 % of the pool
WRONG = 0.2
ALONE = "ce on the labelled alone"
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
        yield from ({"method": ALONE, "factor": 1.0, "seed": seed} for seed in SEEDS)
    for method in sensitivity.METHODS:
        spec = sensitivity.SPECS.get(method, method)
        yield from ({"method": spec, "factor": factors[spec], "seed": seed} for seed in SEEDS)


def _train(trial: Row, regime: str) -> Row:
    images = {"few_labels": few_labels, "wrong_labels": wrong_labels}.get(regime, pool)()
    epochs, method = EPOCHS, trial["method"]
    if method == ALONE:
        images, method = labelled_alone(), "ce"
        epochs = EPOCHS * len(pool()) // len(images)  # as many steps
    student = STUDENTS.get(regime, "cnn4k")
    return train_student(scaled(method, trial["factor"]), trial["seed"], images, epochs, student)[0]


def _summarize(rows):
    baseline = ALONE if (rows["method"] == ALONE).any() else "ce"
    plain = rows[rows["method"] == baseline]
    found = estimates(rows[rows["method"] != baseline], "method", plain)
    means = rows.groupby("method")[["overconfidence", "agreement"]].mean() * 100
    factors = rows.groupby("method")["factor"].first()

    def line(name: str, cells: list[str]) -> list[str]:
        calm = [f"{means.loc[name, 'overconfidence']:+.1f}", f"{means.loc[name, 'agreement']:.1f}"]
        return [f"`{name}`", f"{factors[name]:g}", *cells, *calm]

    lines = [line(baseline, [top1(plain), "", ""]), *(line(name, measured(e)) for name, e in found.items())]
    compared = {f"`{name}`": e for name, e in found.items() if name != "ce"}
    by_verdict = {
        verdict: listed(name for name, e in compared.items() if e.verdict == verdict)
        for verdict in ("higher", "lower", "cannot tell")
    }
    visible = sorted(e.half_width for e in compared.values())
    sparse = (
        "`ce` sees the images of all methods, one or two of them in a batch with a label, and learns little from that. "
    )
    return [
        f"{sparse if baseline == ALONE else ''}Everything is compared with `{baseline}`.",
        table(
            ["method", "weight ×", "top-1 %", "vs it, points", "than it", "over-confidence", "agrees with teacher %"],
            lines,
        ),
        f"**Verdict.** Better than `{baseline}`: {by_verdict['higher']}. Worse: {by_verdict['lower']}. Cannot tell: "
        f"{by_verdict['cannot tell']}. What five seeds can show: {visible[0]:.2f} to {visible[-1]:.2f} points, "
        f"{visible[len(visible) // 2]:.2f} for the median method.",
    ], {"differences": intervals({"top-1": bars(found)}, f"points over {baseline}")}


REGIMES = {
    "all_labels": (
        "All labels",
        "Does a teacher help a student of 3.8 thousand parameters that has all labels?",
        "Every one of these papers: its method beats cross-entropy.",
    ),
    "few_labels": (
        "One label in a hundred",
        "Does it help where 1 % of the images have labels, and the teacher answers on all?",
        "A teacher labels for free, so that it should help most where labels are few.",
    ),
    "wrong_labels": (
        "One wrong label in five",
        "Does it help where 20 % of the labels are wrong?",
        "Soft answers of a teacher that saw the right labels should repair wrong ones.",
    ),
    "tiny_student": (
        "A student a hundred times smaller",
        "Does it help a student of 1.7 thousand parameters, taught by one of 174 thousand?",
        "A student far smaller than its teacher may be unable to follow it.",
    ),
}

STUDIES = tuple(
    Study(
        name,
        question,
        partial(_trials, regime=name),
        partial(_train, regime=name),
        {"images": 55_000, "epochs": EPOCHS, "student": STUDENTS.get(name, "cnn4k"), "teacher": "base"},
        title,
        claim,
        _summarize,
    )
    for name, (title, question, claim) in REGIMES.items()
)
