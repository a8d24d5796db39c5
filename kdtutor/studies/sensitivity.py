"""How much does each method depend on its weight and its temperature, and which would one choose?"""

from ..figures import curve_panels
from .students import SEEDS, scaled, subset, train_student
from .study import Row, Study
from .summary import chosen, estimate, listed, measured, table

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
    return chosen(rows[rows["temperature"].isna() & (rows["method"] != "ce")], ["method"], "factor")


def _summarize(rows):
    factors, default = chosen_factors(rows), rows[rows["temperature"].isna()]
    ce = default[default["method"] == "ce"]
    lines, curves, spans = [], {}, {}
    for method, own in default[default["method"] != "ce"].groupby("method", sort=False):
        at = {factor: some for factor, some in own.groupby("factor")}
        usual, best = estimate(at[1.0], ce), estimate(at[factors[method]], ce)
        curves[method.split("(")[0]] = {factor: _validation(some) for factor, some in at.items()}
        means = [_validation(some)[0] for some in at.values()]
        spans[f"`{method}`"] = max(means) - min(means)
        share = f"{100 * at[1.0]['share'].mean():.0f}"
        lines.append([f"`{method}`", share, *measured(usual)[:2], f"{factors[method]:g}", *measured(best)[:2]])
        lines[-1].append(f"{spans[f'`{method}`']:.1f}")
    columns = ["method", "share %", "usual weight: top-1 %", "vs CE", "chosen ×", "chosen: top-1 %", "vs CE", "span"]
    ordered = sorted(spans, key=spans.get, reverse=True)
    marked = {method.split("(")[0]: factor for method, factor in factors.items()}
    return [
        "Each method's weights times .1, .3, 1, 3 and 10, cross-entropy's left alone; what to choose is read off 5,000 "
        "validation images. *Share*: the method's part of the gradient at the usual weight. *Span*: from the worst to "
        "the best of the five validation accuracies, in points.",
        table(columns, lines),
        "Validation top-1 % by temperature, at the usual weight:",
        table(["method", *(f"T = {temperature:g}" for temperature in TEMPERATURES)], _by_temperature(rows)),
        f"**Verdict.** Touch the weight first of {listed(ordered[:3])}: five weights span "
        f"{listed(f'{spans[name]:.1f}' for name in ordered[:3])} points. It matters least for {listed(ordered[-3:])}.",
    ], {"weights": curve_panels(curves, "factor on the usual weight", "validation top-1 (%)", marked)}


def _validation(rows) -> tuple[float, float]:
    return 100 * rows["validation_top1"].mean(), 100 * rows["validation_top1"].std()


def _by_temperature(rows) -> list[list[str]]:
    lines = []
    for method in WITH_TEMPERATURE:
        own = rows[(rows["method"] == SPECS.get(method, method)) & (rows["factor"] == 1.0)]
        means = own.fillna({"temperature": 4.0}).groupby("temperature")["validation_top1"].mean()
        lines.append([f"`{SPECS.get(method, method)}`", *(f"{100 * value:.2f}" for value in means)])
    return lines


STUDY = Study(
    "sensitivity",
    "Which methods depend on their weight and temperature, and which values would one choose on validation images?",
    _trials,
    _train,
    {"images": IMAGES, "epochs": EPOCHS, "student": "cnn4k", "teacher": "base", "factors": FACTORS},
    "Weights and temperatures",
    "Published weights are offered as they are; they were tuned on other data and networks.",
    _summarize,
)
