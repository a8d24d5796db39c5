"""Every valid cell of the affinity framework: which module matters, and where SP, RKD-D, PKT and CC stand."""

from functools import cache

from ..figures import grids
from ..losses.affinity import AFFINITIES, MODULES, NORMALIZATIONS, preset_of, valid_cells
from ..methods import CE, Affinity
from . import tuning
from .students import subset, train_student
from .study import Row, Study
from .summary import MEASURED, difference, estimates, explained, measured, table, top1

IMAGES, EPOCHS = 6_000, 6


def _trials(rows):
    return tuning.trials(dict.fromkeys(MODULES, ""), valid_cells(), rows, chosen_ratios)


def chosen_ratios(rows) -> dict[tuple[str, str, str], float]:
    """For each cell, the ratio with the best accuracy on validation images over the tuning seeds."""
    return tuning.chosen_ratios(rows[rows["affinity"].notna()], list(MODULES))


def _train(trial: Row) -> Row:
    if not trial["affinity"]:
        return {"weight": 0.0, **train_student(CE(), trial["seed"], subset(IMAGES), EPOCHS)[0]}
    cell = {name: trial[name] for name in MODULES}
    weight = trial["ratio"] / _relative_gradient(*cell.values())
    method = Affinity(weight=weight, **cell)
    return {"weight": weight, **train_student(method, trial["seed"], subset(IMAGES), EPOCHS)[0]}


@cache
def _relative_gradient(*cell: str) -> float:
    return tuning.relative_gradient(Affinity(1.0, 1.0, *cell), subset(IMAGES))


def at_chosen_ratio(rows):
    """The rows of every cell at the ratio chosen for it: all seeds."""
    chosen = chosen_ratios(rows)
    cells = rows[rows["affinity"].notna()]
    is_chosen = [chosen[tuple(cell)] == ratio for *cell, ratio in cells[[*MODULES, "ratio"]].itertuples(index=False)]
    return cells[is_chosen]


def _summarize(rows):
    import pandas as pd

    ce = rows[rows["affinity"].isna()]
    found = estimates(at_chosen_ratio(rows), list(MODULES), ce)
    cells = pd.DataFrame([{**dict(zip(MODULES, cell, strict=True)), "top1": e.mean} for cell, e in found.items()])
    by_distance = cells[cells["discrepancy"] != "kl"]  # a full grid: KL has few normalisations
    shares = explained(by_distance, MODULES, "top1")
    places = sorted(found, key=lambda cell: found[cell].mean, reverse=True)
    lines = [
        [" / ".join(cell), preset_of(dict(zip(MODULES, cell, strict=True))), *measured(found[cell]), str(place)]
        for place, cell in enumerate(places, 1)
    ]
    best = found[places[0]]
    columns = ["affinity / normalisation / discrepancy", "known as", *MEASURED, "place"]
    grid = {
        discrepancy: some.pivot(index="affinity", columns="normalization", values="top1")
        .reindex(index=list(AFFINITIES), columns=list(NORMALIZATIONS))
        .to_numpy()
        for discrepancy, some in cells.groupby("discrepancy")
    }
    verdicts = [e.verdict for e in found.values()]
    by_normalization = cells.groupby("normalization")["top1"].mean()
    return [
        f"{len(cells)} cells, each with one of three weights that two seeds chose on validation images. Cross-entropy: "
        f"{top1(ce)}. The best cells:",
        table(columns, lines[:8]),
        "The published ones among them:",
        table(columns, [line for line in lines if line[1]]),
        f"By their own intervals, cells higher than cross-entropy: {verdicts.count('higher')}; lower: "
        f"{verdicts.count('lower')}; chance alone would give about {0.025 * len(found):.0f} of each.",
        f"Share of the map's variance that each module explains by itself, in the {len(by_distance)} cells without KL: "
        + ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
        + f". Means by normalisation run from {by_normalization.min():.2f} ({by_normalization.idxmin()}) to "
        f"{by_normalization.max():.2f} ({by_normalization.idxmax()}).",
        f"**Verdict.** Do some cells beat the published methods, or labels alone? The best, {lines[0][0]}, is "
        f"{difference(best)} points from cross-entropy, and flattered as the best of {len(cells)}: {best.verdict}. "
        f"What matters most by itself is the {max(MODULES, key=shares.get)}.",
    ], {"map": grids(grid, list(AFFINITIES), list(NORMALIZATIONS))}


STUDY = Study(
    "affinity",
    "Which of affinity, normalisation and discrepancy matters most, and where do SP, RKD, PKT and CC stand?",
    _trials,
    _train,
    {"images": IMAGES, "epochs": EPOCHS, "student": "cnn4k", "teacher": "base", "ratios": tuning.RATIOS},
    "The affinity map",
    "The unified view: affinity, normalisation and discrepancy are modules, and some cells beat the published methods.",
    _summarize,
)
