"""STKD against KD and against mixup without a teacher: accuracy and signed calibration, small and wide students."""

from .students import SEEDS, subset, train_student
from .study import Row, Study

# Images, and epochs for about as many steps.
BUDGETS = {1_000: 30, 6_000: 8}
STUDENTS = ("cnn4k", "cnn220k")
METHODS = {
    "ce": "ce",
    "mixup": "stkd(weight=0, ce_weight=1, target='interpolated')",
    "kd": "kd",
    "stkd": "stkd",
    "stkd, alpha .2": "stkd(alpha=0.2)",
    "stkd, interpolated": "stkd(target='interpolated')",
}


def _trials(rows):
    for student in STUDENTS:
        for images in BUDGETS:
            for method in METHODS:
                yield from ({"student": student, "images": images, "method": method, "seed": seed} for seed in SEEDS)


def _train(trial: Row) -> Row:
    images = trial["images"]
    spec, train = METHODS[trial["method"]], subset(images)
    return train_student(spec, trial["seed"], train, BUDGETS[images], trial["student"])[0]


STUDY = Study(
    "mixup",
    "Does STKD beat KD and mixup alone, and does it calm over-confidence?",
    _trials,
    _train,
    {"epochs": BUDGETS, "teacher": "base"},
)
