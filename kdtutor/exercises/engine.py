"""How an answer becomes points and a hint: by the audit, by comparison, by choice, by number or by a rubric.

An exercise lists the usual wrong answers, each with its own hint. A hint says what is wrong and where
to look; it does not give the solution away.
"""

import html
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdtutor.audit import AuditError, audit
from kdtutor.audit.report import LINE


@dataclass(frozen=True)
class Result:
    """What a check says about an answer. True when all points are there."""

    points: int
    out_of: int
    hint: str = ""

    def __bool__(self) -> bool:
        return self.points == self.out_of

    def __str__(self) -> str:
        said = f"{'✓' if self else '✗'} {self.points} of {self.out_of} points" + (f". {self.hint}" if self.hint else "")
        return textwrap.fill(said, LINE, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        mark = "✓" if self else "✗"
        return f"<p><strong>{mark} {self.points} of {self.out_of} points.</strong> {html.escape(self.hint)}</p>"


NOT_WRITTEN = "This function is not written yet: replace the line that raises NotImplementedError"
RETURNS_NOTHING = "The function returns nothing: is a return missing?"


def by_audit(
    function: Callable,
    kind: str,
    hints: Mapping[str, str] | None = None,
    out_of: int = 3,
    partial: Mapping[str, int] | None = None,
    **settings,
) -> Result:
    """Audit a loss that the reader wrote.

    Args:
        function: the answer.
        kind, settings: as for `audit`.
        hints: finding code -> hint; the finding's likely cause where a code is not listed.
        out_of: points of a right answer.
        partial: finding code -> points of an answer with that one mistake, 0 where not listed.
    """
    if not callable(function):
        return Result(0, out_of, f"Pass the function itself, without calling it; this is a {type(function).__name__}.")
    try:
        report = audit(function, kind, **settings)
    except AuditError as error:
        return Result(0, out_of, _why_it_cannot_run(error))
    if report.ok:
        return Result(out_of, out_of)
    first = report.findings[0]
    hint = (hints or {}).get(first.code, f"{first.cause[:1].upper()}{first.cause[1:]}.")
    more = len(report.findings) - 1
    points = (partial or {}).get(first.code, 0) if not more else 0
    return Result(points, out_of, hint + (f" ({more} more to find after this one.)" if more else ""))


def _why_it_cannot_run(error: AuditError) -> str:
    if isinstance(error.__cause__, NotImplementedError):
        return f"{NOT_WRITTEN}."
    if "returned NoneType" in str(error):
        return RETURNS_NOTHING
    if error.__cause__ is not None:
        return f"The function stops with {type(error.__cause__).__name__}: {error.__cause__}."
    return f"{error}."


def by_comparison(
    function: Callable,
    reference: Callable,
    inputs: Sequence[tuple],
    mistakes: Sequence[tuple[Callable, str]] = (),
    out_of: int = 2,
) -> Result:
    """Compare a function with the right one on several inputs; a known wrong one that fits gives the hint.

    Args:
        reference: the right function.
        inputs: tuples of arguments; they must tell the mistakes from the reference.
        mistakes: (wrong function, hint), the likeliest first.
    """
    if not callable(function):
        return Result(0, out_of, f"Pass the function itself, without calling it; this is a {type(function).__name__}.")
    try:
        answers = [function(*_copies(arguments)) for arguments in inputs]
    except NotImplementedError:
        return Result(0, out_of, f"{NOT_WRITTEN}.")
    except Exception as error:  # whatever the reader's function raises
        return Result(0, out_of, f"The function stops with {type(error).__name__}: {error}.")
    if any(answer is None for answer in answers):
        return Result(0, out_of, RETURNS_NOTHING)
    for answer in answers:
        try:
            torch.as_tensor(answer)
        except (TypeError, ValueError, RuntimeError):
            return Result(0, out_of, f"The function returns a {type(answer).__name__}; a tensor or a number is wanted.")
    right = [reference(*arguments) for arguments in inputs]
    if all(map(_close, answers, right)):
        return Result(out_of, out_of)
    shapes = [(_shape(a), _shape(r)) for a, r in zip(answers, right, strict=True)]
    for wrong, hint in mistakes:
        if all(map(_close, answers, (wrong(*arguments) for arguments in inputs))):
            return Result(0, out_of, hint)
    for arguments, (got, wanted) in zip(inputs, shapes, strict=True):
        if got != wanted:
            given = ", ".join(str(_shape(value)) if isinstance(value, Tensor) else repr(value) for value in arguments)
            return Result(0, out_of, f"For arguments ({given}) the result has shape {got}, and {wanted} is wanted.")
    worst = max(_distance(a, r) for a, r in zip(answers, right, strict=True))
    return Result(
        0, out_of, f"The numbers differ from the right ones by up to {worst:.3g}. Try a 2 x 3 example by hand."
    )


def _copies(arguments: tuple) -> tuple:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in arguments)


def _shape(value) -> tuple[int, ...]:
    return tuple(torch.as_tensor(value).shape)


def _distance(a, b) -> float:
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    return float((a - b).abs().max())


def _close(a, b) -> bool:
    return _shape(a) == _shape(b) and _distance(a, b) <= 1e-5 * max(1.0, float(torch.as_tensor(b).abs().max()))


def by_choice(answer: str, right: str, hints: Mapping[str, str], out_of: int = 1) -> Result:
    """One letter of several. `hints` has a hint for each wrong letter."""
    letter = str(answer).strip().lower()
    if letter == right:
        return Result(out_of, out_of)
    letters = ", ".join(sorted({right, *hints}))
    return Result(0, out_of, hints.get(letter, f"Answer with one letter: {letters}; this is {answer!r}."))


def by_number(
    answer: float, right: float, hints: Mapping[float, str], tolerance: float = 0.02, out_of: int = 1
) -> Result:
    """A number, to a relative tolerance. `hints` has the usual wrong numbers."""
    try:
        value = float(answer)
    except (TypeError, ValueError):
        return Result(0, out_of, f"Answer with a number; this is {answer!r}.")
    near = lambda target: math.isclose(value, target, rel_tol=tolerance, abs_tol=1e-9)  # noqa: E731
    if near(right):
        return Result(out_of, out_of)
    return Result(
        0, out_of, next((hint for wrong, hint in hints.items() if near(wrong)), "Work it out on one sample first.")
    )


def by_rubric(criteria: Sequence[tuple[str, bool]]) -> Result:
    """An open experiment: one point for each criterion that is met; the hint lists what is missing."""
    missing = [said for said, met in criteria if not met]
    return Result(
        len(criteria) - len(missing), len(criteria), f"Still missing: {'; '.join(missing)}." if missing else ""
    )
