"""From a study's rows to numbers with their uncertainty."""

from typing import NamedTuple

from ..compare import paired_difference


class Estimate(NamedTuple):
    """A mean over seeds, its standard deviation, and its paired difference from a baseline with a 95 % interval."""

    mean: float
    std: float
    difference: float
    half_width: float

    @property
    def verdict(self) -> str:
        """What the interval of the difference allows to say: "higher", "lower" or "cannot tell"."""
        if abs(self.difference) > self.half_width:
            return "higher" if self.difference > 0 else "lower"
        return "cannot tell"


def estimate(rows, baseline, metric: str = "top1", scale: float = 100.0) -> Estimate:
    """One group of rows against another, seed by seed.

    Args:
        rows, baseline: DataFrames with one row for each seed.
        metric: the column that counts. scale: 100 for per cent and points.
    """
    own, other = rows.set_index("seed")[metric], baseline.set_index("seed")[metric]
    difference, half_width = paired_difference(own, other)
    return Estimate(scale * own.mean(), scale * own.std(), scale * difference, scale * half_width)


def estimates(rows, by: str | list[str], baseline, metric: str = "top1", scale: float = 100.0) -> dict:
    """An estimate for each value of the column `by`, or tuple of values of several, in the order of the rows."""
    return {name: estimate(own, baseline, metric, scale) for name, own in rows.groupby(by, sort=False)}


def chosen(rows, by: list[str], setting: str) -> dict:
    """For each group the value of `setting` with the best mean accuracy on validation images.

    Returns:
        group -> value; a group is one value of `by`, or a tuple if it names several columns.
    """
    means = rows.groupby([*by, setting])["validation_top1"].mean().fillna(0)
    best = means.groupby(level=list(range(len(by)))).idxmax()
    return {index[0] if len(by) == 1 else index[:-1]: float(index[-1]) for index in best}


def explained(table, factors: tuple[str, ...], value: str) -> dict[str, float]:
    """The share of the variance that each factor explains by itself, in a table with every combination once.

    What is left, interactions and noise, comes under "the rest".
    """
    total = ((table[value] - table[value].mean()) ** 2).sum()
    shares = {}
    for factor in factors:
        means = table.groupby(factor)[value].transform("mean")
        shares[factor] = float(((means - table[value].mean()) ** 2).sum() / total)
    return {**shares, "the rest": 1 - sum(shares.values())}


# --- As Markdown ---

MEASURED = ["top-1 %", "vs CE, points", "than CE"]


def measured(e: Estimate) -> list[str]:
    """The columns MEASURED: mean ± std over seeds, the paired difference with its 95 % interval, the verdict."""
    return [f"{e.mean:.2f} ± {e.std:.2f}", difference(e), e.verdict]


def difference(e: Estimate) -> str:
    return f"{e.difference:+.2f} ± {e.half_width:.2f}"


def top1(rows) -> str:
    """Mean ± std over seeds, in per cent."""
    return f"{100 * rows['top1'].mean():.2f} ± {100 * rows['top1'].std():.2f}"


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def listed(names) -> str:
    """a, b and c; or none."""
    names = list(names)
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])) or "none"


def answer(e: Estimate, claimed: str) -> str:
    """Whether a claimed "higher" or "lower" holds: yes, no or cannot tell, with the difference."""
    word = "cannot tell" if e.verdict == "cannot tell" else "yes" if e.verdict == claimed else "no"
    return f"{word} ({difference(e)})"


def bars(found: dict[str, Estimate]) -> dict[str, tuple[float, float]]:
    """What figures.intervals draws."""
    return {name: (e.difference, e.half_width) for name, e in found.items()}
