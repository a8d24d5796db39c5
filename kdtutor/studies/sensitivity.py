"""How much does each method depend on its weight and its temperature, and which would one choose?"""

from .students import SEEDS, scaled, subset, train_student
from .study import Row, Study

IMAGES, EPOCHS = 12_000, 6
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)  # times the weight that METHODS has
TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 16.0)
WITH_TEMPERATURE = ("kd", "stkd", "dist", "dkd")

# STKD's teacher is asked about clean images here, so that it can be remembered; study "mixup" compares both targets.
SPECS = {"stkd": "stkd(target='interpolated')"}
METHODS = ("kd", "sp", "affinity", "stkd", "cmkd", "kernel", "dist", "dkd", "rkd", "pkt", "cc")


def _trials(rows):
    yield from (_trial("ce", 1.0, "", seed) for seed in SEEDS)
    for method in METHODS:
        spec = SPECS.get(method, method)
        yield from (_trial(spec, factor, "", seed) for factor in FACTORS for seed in SEEDS)
        if method in WITH_TEMPERATURE:
            others = (temperature for temperature in TEMPERATURES if temperature != 4.0)  # 4 is what METHODS has
            yield from (_trial(spec, 1.0, temperature, seed) for temperature in others for seed in SEEDS)


def _trial(method: str, factor: float, temperature: float | str, seed: int) -> Row:
    return {"method": method, "factor": factor, "temperature": temperature, "seed": seed}


def _train(trial: Row) -> Row:
    method = scaled(trial["method"], trial["factor"])
    if trial["temperature"]:
        method.temperature = trial["temperature"]
    return train_student(method, trial["seed"], subset(IMAGES), EPOCHS)[0]


def chosen_factors(rows) -> dict[str, float]:
    """For each method, the factor with the best mean accuracy on validation images."""
    at_default = rows[rows["temperature"].isna() & (rows["method"] != "ce")]
    means = at_default.groupby(["method", "factor"])["validation_top1"].mean()
    return {method: float(of_method.idxmax()[1]) for method, of_method in means.groupby("method")}


STUDY = Study(
    "sensitivity",
    "Which methods depend on their weight and temperature, and which values would one choose on validation images?",
    _trials,
    _train,
    {"images": IMAGES, "epochs": EPOCHS, "student": "cnn4k", "teacher": "base", "factors": FACTORS},
)
