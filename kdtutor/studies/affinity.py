"""Every valid cell of the affinity framework: which module matters, and where SP, RKD-D, PKT and CC stand."""

from functools import cache
from itertools import product

from ..figures import grids
from ..losses import PRESETS
from ..losses.affinity import AFFINITIES, DISCREPANCIES, NORMALIZATIONS, check_cell
from ..methods import CE, Affinity
from . import tuning
from .students import subset, train_student
from .study import Row, Study
from .summary import difference, estimate, explained, table, top1

IMAGES, EPOCHS = 6_000, 6
MODULES = ("affinity", "normalization", "discrepancy")


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
    return tuning.trials(dict.fromkeys(MODULES, ""), cells(), rows, chosen_ratios)


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


def preset_of(cell: dict[str, str]) -> str:
    """The published method that has this cell, or ""."""
    return next((name for name, preset in PRESETS.items() if preset == cell), "")


def affinity_map(rows):
    """A row for each cell of the framework at its chosen ratio: test top-1 in per cent, std, published name."""
    import pandas as pd

    cells = []
    for cell, ratio in chosen_ratios(rows).items():
        names = dict(zip(MODULES, cell, strict=True))
        own = 100 * _rows_of(rows, names, ratio)["top1"]
        cells.append({**names, "ratio": ratio, "top1": own.mean(), "std": own.std(), "preset": preset_of(names)})
    return pd.DataFrame(cells)


def _rows_of(rows, names, ratio: float):
    same = rows["ratio"] == ratio
    for module in MODULES:
        same &= rows[module] == names[module]
    return rows[same]


def _summarize(rows):
    ce = rows[rows["affinity"].isna()]
    cells = affinity_map(rows).sort_values("top1", ascending=False, ignore_index=True)
    shares = explained(cells[cells["discrepancy"] != "kl"], MODULES, "top1")
    lines = [
        [" / ".join(cell[module] for module in MODULES), cell["preset"], f"{cell['top1']:.2f} ± {cell['std']:.2f}",
         str(place + 1)]
        for place, cell in cells.iterrows()
    ]  # fmt: skip
    best = estimate(_rows_of(rows, cells.iloc[0], cells["ratio"].iloc[0]), ce)
    columns = ["affinity / normalisation / discrepancy", "known as", "top-1 %", "place"]
    grid = {
        discrepancy: some.pivot(index="affinity", columns="normalization", values="top1")
        .reindex(index=list(AFFINITIES), columns=list(NORMALIZATIONS))
        .to_numpy()
        for discrepancy, some in cells.groupby("discrepancy")
    }
    return [
        f"{len(cells)} cells, each with one of three weights that two seeds chose on validation images. Cross-entropy: "
        f"{top1(ce)}. The best cells:",
        table(columns, lines[:8]),
        "The published ones among them:",
        table(columns, [line for line in lines if line[1]]),
        "Share of the map's variance that each module explains by itself, over the 144 cells without KL: "
        + ", ".join(f"{module} {100 * share:.0f} %" for module, share in shares.items())
        + ".",
        f"**Verdict.** What matters most by itself is the {max(MODULES, key=shares.get)}. The best cell is "
        f"{lines[0][0]}, {difference(best)} points from cross-entropy; as the best of {len(cells)} it is flattered.",
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
