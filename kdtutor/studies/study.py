"""A study asks one question of many trained students: a row for each in results/studies/<name>/students.csv.

Each student is a pure function of its trial, so a study that was stopped goes on where it was: what has a
row is not trained again. A student whose loss becomes infinite has a row too, without accuracies.
"""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from tqdm.auto import tqdm

from ..data import shipped
from ..finite import NonFiniteError
from ..records import RecordError, environment, read_csv, to_csv, write_atomically, write_json

Row = dict[str, str | int | float]


@dataclass(frozen=True)
class Study:
    """One question.

    Attributes:
        name: of its command and folder.
        question: what the papers claim, as something that can be measured.
        trials: rows so far, as a DataFrame -> the trials that should exist; what is chosen on validation
            images is chosen here, so later trials may depend on earlier rows.
        train: a trial -> what was measured of its student.
        settings: what all its students share, for the record.
        title: of its section in results/README.md.
        claim: what the papers say.
        summarize: all rows -> the section's paragraphs, the last one a verdict, and its figures by name.
    """

    name: str
    question: str
    trials: Callable[["pandas.DataFrame"], Iterable[Row]]  # noqa: F821 (imported where it is used)
    train: Callable[[Row], Row]
    settings: dict
    title: str
    claim: str
    summarize: Callable[["pandas.DataFrame"], tuple[list[str], dict[str, Figure]]]  # noqa: F821


def run(study: Study, folder: Path = Path("results/studies"), progress: bool = True) -> "pandas.DataFrame":  # noqa: F821
    """Train all students of a study that have no row yet, and return all rows."""
    folder = folder / study.name
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"study": study.name, "question": study.question, **study.settings, **environment()}
    if not (folder / "settings.json").exists():
        write_json(folder / "settings.json", settings)
    rows = _read(folder / "students.csv")
    while waiting := _waiting(study, rows):
        for trial in tqdm(waiting, desc=study.name, unit=" students", disable=not progress):
            try:
                measured = {name: _short(value) for name, value in study.train(trial).items()}
            except NonFiniteError:
                measured = {"diverged": 1}
            rows.append({**_text(trial), **_text(measured)})
            write_atomically(folder / "students.csv", to_csv(rows))
    return _frame(rows)


def is_complete(study: Study, folder: Path) -> bool:
    """Whether the record has a row for every trial."""
    rows = _read(folder / study.name / "students.csv")
    return bool(rows) and not _waiting(study, rows)


def read(name: str, folder: Path | None = None) -> "pandas.DataFrame":  # noqa: F821
    """The rows of a study's record; of the one that comes with kdtutor if no folder is given.

    Raises:
        RecordError: there is no such record.
    """
    path = (shipped("results/studies") if folder is None else folder) / name / "students.csv"
    if not path.exists():
        raise RecordError(f"{path} is missing; make it with: kdtutor study {name}")
    return _frame(_read(path))


def _waiting(study: Study, rows: list[dict[str, str]]) -> list[Row]:
    try:
        trials = list(study.trials(_frame(rows)))
        keys = list(trials[0])
        done = {tuple(row[key] for key in keys) for row in rows}
    except KeyError as missing:
        raise RecordError(
            f"{study.name}/students.csv has no column {missing}: it is no record of this study; restore it, or remove "
            "it to start over"
        ) from missing
    return [trial for trial in trials if tuple(_text(trial).values()) not in done]


def _text(row: Row) -> dict[str, str]:
    return {name: str(value) for name, value in row.items()}


def _short(value):
    """A measured number with the digits that mean something."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _read(path: Path) -> list[dict[str, str]]:
    return read_csv(path) if path.exists() else []


def _frame(rows: list[dict[str, str]]) -> "pandas.DataFrame":  # noqa: F821
    import pandas as pd

    return pd.read_csv(io.BytesIO(to_csv(rows)), keep_default_na=False, na_values=[""]) if rows else pd.DataFrame()
