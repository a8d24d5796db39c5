"""STKD against KD and against mixup without a teacher: accuracy and signed calibration, small and wide students."""

from ..figures import intervals
from .students import SEEDS, subset, train_student
from .study import Row, Study
from .summary import answer, bars, difference, estimate, estimates, table

EPOCHS = {1_000: 30, 6_000: 8}
SETTINGS = (("cnn4k", 6_000), ("cnn4k", 1_000), ("cnn220k", 1_000))  # student, images
METHODS = {
    "ce": "ce",
    "mixup": "stkd(weight=0, ce_weight=1, target='interpolated')",
    "kd": "kd",
    "stkd": "stkd",
    "stkd, alpha .2": "stkd(alpha=0.2)",
    "stkd, interpolated": "stkd(target='interpolated')",
}


def _trials(rows):
    for student, images in SETTINGS:
        for method in METHODS:
            yield from ({"student": student, "images": images, "method": method, "seed": seed} for seed in SEEDS)


def _train(trial: Row) -> Row:
    images = trial["images"]
    spec, train = METHODS[trial["method"]], subset(images)
    return train_student(spec, trial["seed"], train, EPOCHS[images], trial["student"])[0]


def _summarize(rows):
    lines, accuracy, confidence, verdicts = [], {}, {}, []
    for (student, images), own in rows.groupby(["student", "images"], sort=False):
        place = f"{student}, {images:,} images"
        kd, nll = own[own["method"] == "kd"], own.groupby("method")["nll"].mean()
        right, sure = estimates(own, "method", kd), estimates(own, "method", kd, "overconfidence")
        for method, e in right.items():
            beside = ["", "", ""] if method == "kd" else [difference(e), e.verdict, difference(sure[method])]
            cells = [f"{e.mean:.2f} ± {e.std:.2f}", *beside[:2], f"{sure[method].mean:+.2f}", beside[2]]
            lines.append([place, method, *cells, f"{nll[method]:.3f}"])
        accuracy[place], confidence[place] = (
            {method: bar for method, bar in bars(found).items() if method != "kd"} for found in (right, sure)
        )
        alone = estimate(own[own["method"] == "stkd"], own[own["method"] == "mixup"])
        verdicts.append(
            f"{place}: more accurate than KD, {answer(right['stkd'], 'higher')}; than mixup without a teacher, "
            f"{answer(alone, 'higher')}; less over-confident than KD, {answer(sure['stkd'], 'lower')}."
        )
    columns = ["setting", "method", "top-1 %", "vs KD, points", "than KD", "over-confidence", "vs KD, points", "NLL"]
    return [
        "Over-confidence is mean confidence less accuracy, in points: negative is under-confident.",
        table(columns, lines),
        f"**Verdict.** STKD with its defaults. {' '.join(verdicts)}",
    ], {
        "accuracy": intervals(accuracy, "top-1, points over KD"),
        "over-confidence": intervals(confidence, "confidence less accuracy, points over KD"),
    }


STUDY = Study(
    "mixup",
    "Does STKD beat KD and mixup alone, and does it calm over-confidence?",
    _trials,
    _train,
    {"epochs": EPOCHS, "teacher": "base"},
    "STKD",
    "STKD: virtual samples beat KD. Later work: mixup in distillation cuts over-confidence about tenfold.",
    _summarize,
)
