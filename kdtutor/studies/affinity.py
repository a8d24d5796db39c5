"""Every valid cell of the affinity framework: which module matters, and where SP, RKD-D, PKT and CC stand."""

from functools import cache
from itertools import product

import torch

from .. import models
from ..losses import PRESETS
from ..losses.affinity import AFFINITIES, DISCREPANCIES, NORMALIZATIONS, check_cell
from ..methods import CE, Affinity
from ..settings import Settings
from ..train import gradient_norms, make_batch
from .students import SEEDS, memory, subset, train_student
from .study import Row, Study

IMAGES, EPOCHS = 6_000, 6
RATIOS = (0.3, 1.0, 3.0)  # length of the cell's gradient over cross-entropy's, before training
TUNING_SEEDS = (0, 1)


def cells() -> list[dict[str, str]]:
    """All that have a meaning: "kl" needs rows that are probabilities."""
    valid = []
    for affinity, normalization, discrepancy in product(AFFINITIES, NORMALIZATIONS, DISCREPANCIES):
        try:
            check_cell(affinity, normalization, discrepancy)
        except ValueError:
            continue
        valid.append({"affinity": affinity, "normalization": normalization, "discrepancy": discrepancy})
    return valid


def _trials(rows):
    nothing = {"affinity": "", "normalization": "", "discrepancy": ""}
    yield from ({**nothing, "ratio": 0.0, "seed": seed} for seed in SEEDS)
    for cell in cells():
        yield from ({**cell, "ratio": ratio, "seed": seed} for ratio in RATIOS for seed in TUNING_SEEDS)
    if len(rows) >= len(SEEDS) + len(cells()) * len(RATIOS) * len(TUNING_SEEDS):
        for cell, ratio in chosen_ratios(rows).items():
            cell = dict(zip(nothing, cell, strict=True))
            yield from ({**cell, "ratio": ratio, "seed": seed} for seed in SEEDS)


def chosen_ratios(rows) -> dict[tuple[str, str, str], float]:
    """For each cell, the ratio with the best accuracy on validation images over the tuning seeds."""
    tuning = rows[rows["seed"].isin(TUNING_SEEDS) & rows["affinity"].notna()]
    means = tuning.groupby(["affinity", "normalization", "discrepancy", "ratio"])["validation_top1"].mean()
    return {cell: float(of_cell.fillna(0).idxmax()[3]) for cell, of_cell in means.groupby(level=[0, 1, 2])}


def _train(trial: Row) -> Row:
    if not trial["affinity"]:
        return {"weight": 0.0, **train_student(CE(), trial["seed"], subset(IMAGES), EPOCHS)[0]}
    weight = trial["ratio"] / _relative_gradient(trial["affinity"], trial["normalization"], trial["discrepancy"])
    cell = {name: trial[name] for name in ("affinity", "normalization", "discrepancy")}
    method = Affinity(weight=weight, **cell)
    return {"weight": weight, **train_student(method, trial["seed"], subset(IMAGES), EPOCHS)[0]}


@cache
def _relative_gradient(affinity: str, normalization: str, discrepancy: str, batches: int = 10) -> float:
    """The length of the cell's gradient over cross-entropy's, of an untrained student, at weight 1."""
    method, settings = Affinity(1.0, 1.0, affinity, normalization, discrepancy), Settings(epochs=1)
    train = subset(IMAGES)
    teacher = memory("base", train, settings, method.features)
    student = models.tap(models.build("cnn4k", 10, 1, seed=100), method.features).train()
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(100))
    ratios = []
    for step in range(batches):
        batch = make_batch(train, order, step, 0, settings)
        norms = gradient_norms(method(student(batch.images), teacher(batch), batch), list(student.parameters()))
        ratios.append(float(norms["affinity"] / norms["ce"]))
    return sum(ratios) / batches


def preset_of(cell: dict[str, str]) -> str:
    """The published method that has this cell, or ""."""
    return next((name for name, preset in PRESETS.items() if preset == cell), "")


STUDY = Study(
    "affinity",
    "Which of affinity, normalisation and discrepancy matters most, and where do SP, RKD, PKT and CC stand?",
    _trials,
    _train,
    {"images": IMAGES, "epochs": EPOCHS, "student": "cnn4k", "teacher": "base", "ratios": RATIOS},
)
