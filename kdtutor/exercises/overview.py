"""How far the reader has come: points of the whole course, or of one notebook, as a table."""

import importlib
from pathlib import Path

from .points import EXERCISES, progress_file, read_points, say_once

COURSE = {
    "00": "start here",
    "01": "vanilla KD",
    "02": "similarity-preserving KD",
    "03": "one affinity framework",
    "04": "STKD",
    "05": "correlation matching",
    "06": "kernel matrix transfer",
    "07": "compare them all, honestly",
    "08": "how distillation code goes wrong",
}


class Progress:
    """Rows of what, points, of how many, done. Prints as text; `table` is a pandas DataFrame of the same rows."""

    def __init__(self, rows: list[tuple[str, int, int]], file: Path | None):
        self.rows = [(what, points, most, "✓" if points == most > 0 else "") for what, points, most in rows]
        self.file = file

    @property
    def table(self):
        import pandas as pd

        return pd.DataFrame(self.rows, columns=["what", "points", "of", "done"])

    def __str__(self) -> str:
        width = max(len(what) for what, *_ in self.rows)
        lines = [f"{what:{width}}  {points:>3} of {most:>3}  {done}" for what, points, most, done in self.rows]
        where = f"kept in {self.file}" if self.file else "kept nowhere"
        return "\n".join([*(line.rstrip() for line in lines), "", where])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table.to_html(index=False, border=0)


def progress(notebook: str | int | None = None) -> Progress:
    """Your points: of each notebook, or of each exercise of one.

    Args:
        notebook: None for the whole course, else its number, such as 1 or "01".

    Raises:
        ValueError: a number that the course does not have.
    """
    chosen = None if notebook is None else f"{notebook:0>2}"
    if chosen not in (None, *COURSE):
        raise ValueError(f"notebook is {notebook!r}, wanted one of {', '.join(COURSE)}")
    file, kept = None, {}
    try:
        file = progress_file()
        kept = read_points(file)
    except (OSError, ValueError, RuntimeError) as error:
        say_once(f"Your points cannot be read: {error}. Move it away, or set KDTUTOR_PROGRESS to another file.")

    rows = []
    for number, topic in COURSE.items():
        importlib.import_module(f"{__package__}.notebook_{number}")  # which fills EXERCISES
        exercises = sorted((e for e in EXERCISES.values() if e.notebook == number), key=lambda e: e.number)
        points = [min(kept.get(e.key, 0), e.points) for e in exercises]
        if chosen is None:
            rows.append((f"{number} {topic}", sum(points), sum(e.points for e in exercises)))
        elif chosen == number:
            rows += [(f"{e.number} {e.title}", got, e.points) for e, got in zip(exercises, points, strict=True)]
    if chosen is None:
        rows.append(("all", sum(points for _, points, _ in rows), sum(most for *_, most in rows)))
    return Progress(rows, file)
