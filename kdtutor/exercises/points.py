"""The reader's points, kept in one small file on this machine. Nothing is sent anywhere.

The file is KDTUTOR_PROGRESS, or .kdtutor/progress.json in the home folder. It holds the most points that
each check has given, and may be deleted to begin anew. A file that cannot be used is left as it is, and
the checks go on without it.
"""

import functools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdtutor.records import RecordError, write_json

from .engine import Result

FORMAT = "kdtutor progress 1"


@dataclass(frozen=True)
class Exercise:
    """One check of a notebook. Several checks may belong to one numbered exercise."""

    notebook: str
    number: int
    title: str
    points: int
    check: str

    @property
    def key(self) -> str:
        return f"notebook_{self.notebook}.{self.check}"


EXERCISES: dict[str, Exercise] = {}  # key -> exercise, filled as the modules notebook_NN are imported
_said: set[str] = set()


def exercise(number: int, title: str, points: int) -> Callable:
    """Above a check in notebook_NN.py: keeps the points that it gives. It stays a plain function.

    Args:
        number: of the exercise in its notebook.
        title: a few words, for the table of points.
        points: of a right answer.
    """

    def with_points_kept(check: Callable[..., Result]) -> Callable[..., Result]:
        known = Exercise(check.__module__[-2:], number, title, points, check.__name__)
        EXERCISES[known.key] = known

        @functools.wraps(check)
        def checked(*args, **kwargs) -> Result:
            result = check(*args, **kwargs)
            keep_best(known.key, result.points)
            return result

        return checked

    return with_points_kept


def progress_file() -> Path:
    """Where points are kept.

    Raises:
        RuntimeError: KDTUTOR_PROGRESS is not set, and there is no home folder.
    """
    chosen = os.environ.get("KDTUTOR_PROGRESS")
    return Path(chosen).expanduser() if chosen else Path.home() / ".kdtutor" / "progress.json"


def read_points(path: Path) -> dict[str, int]:
    """Check -> points; nothing where there is no file yet.

    Raises:
        RecordError: a file that is damaged, or not kdtutor's.
    """
    if not path.exists():
        return {}
    if not path.is_file():
        raise RecordError(f"{path} is not a file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        points = dict(content["points"]) if content["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordError(f"{path} is damaged, or no progress file of kdtutor") from error
    if points is None or any(type(value) is not int or value < 0 for value in points.values()):
        raise RecordError(f"{path} is no progress file that this version of kdtutor can read")
    return points


def keep_best(key: str, points: int) -> None:
    """Write down the points of a check if they are more than before. Where that cannot be done, say so once."""
    try:
        path = progress_file().resolve()  # a link stays a link
        kept = read_points(path)
        if points > kept.get(key, 0):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"format": FORMAT, "points": {**kept, key: points}})
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no home folder, or links in a circle
        say_once(f"Your points are not kept: {error}. Move it away, or set KDTUTOR_PROGRESS to another file.")


def say_once(complaint: str) -> None:
    if complaint not in _said:
        _said.add(complaint)
        print(complaint, file=sys.stderr)
