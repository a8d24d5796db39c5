"""What an audit found, as text for a terminal and as HTML for a notebook."""

import html
import textwrap
from dataclasses import dataclass, field

LINE = 100  # characters; a notebook breaks longer ones in the middle of a word


@dataclass(frozen=True)
class Finding:
    """One mistake (or, with note=True, one remark): what was due, what was there, why, and what to do."""

    code: str
    expected: str
    measured: str
    cause: str
    fix: str
    effect: str = ""  # what it does to the training signal
    note: bool = False
    makes_it: str = ""  # how it goes on after "this is KD, equation (1.2), ": "divided by C = 10"


@dataclass(frozen=True)
class Check:
    """One property that was looked at. ok is None where it could not be."""

    name: str
    ok: bool | None
    said: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.said})" if self.said else self.name


@dataclass(frozen=True)
class Report:
    """`ok` is true when there is no finding; notes leave it true."""

    name: str  # of what was audited
    kind: str | None  # which loss it is, or was compared with; None where none fits
    identity: str  # "this is KD, equation (1.2), times 0.1"
    findings: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()
    checks: tuple[Check, ...] = field(default=(), repr=False)

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def codes(self) -> set[str]:
        return {finding.code for finding in (*self.findings, *self.notes)}

    def __str__(self) -> str:
        lines = [f"{'ok' if self.ok else 'NOT OK'}  {self.name}: {self.identity}"]
        for mark, found in [*(("!!", f) for f in self.findings), *(("--", f) for f in self.notes)]:
            headline = f"{mark} {_sentence(found.cause)} [{found.code}]"
            lines.append("\n" + textwrap.fill(headline, LINE, subsequent_indent="   "))
            for label, text in _rows(found):
                lines.append(_wrapped(label, text))
        if self.checks:
            lines.append("")
            for word, ok in (("holds", True), ("fails", False), ("not looked at", None)):
                said = [str(check) for check in self.checks if check.ok is ok]
                if said:
                    lines.append(_wrapped(word, ", ".join(said), width=15))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        e = html.escape
        color, word = ("#2a7f3f", "✓ ok") if self.ok else ("#b3362b", "✗ not ok")
        parts = [
            '<div style="border-left: 4px solid ' + color + '; padding-left: 1em; max-width: 60em; text-align: left">',
            f"<p><strong style='color: {color}'>{word}</strong> <code>{e(self.name)}</code>: {e(self.identity)}</p>",
        ]
        for word, found in [*(("Finding", f) for f in self.findings), *(("Note", f) for f in self.notes)]:
            rows = "".join(
                f"<tr><th style='text-align: left'>{label}</th><td style='text-align: left'>{e(text)}</td></tr>"
                for label, text in _rows(found)
            )
            parts.append(f"<p><strong>{word}: {e(_sentence(found.cause))}</strong> <code>{e(found.code)}</code></p>")
            parts.append(f"<table>{rows}</table>")
        if self.checks:
            marks = {True: "✓", False: "✗", None: "–"}
            said = ", ".join(f"{marks[check.ok]}&nbsp;{e(str(check))}" for check in self.checks)
            parts.append(f"<details><summary>What was checked</summary>{said}</details>")
        return "".join(parts) + "</div>"


def _rows(found: Finding) -> list[tuple[str, str]]:
    rows = [("expected", found.expected), ("measured", found.measured), ("fix", found.fix), ("effect", found.effect)]
    return [(label, text) for label, text in rows if text]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "." * (not text.endswith("."))


def _wrapped(label: str, text: str, width: int = 10) -> str:
    indent = " " * (3 + width)
    return textwrap.fill(text, LINE, initial_indent=f"   {label:<{width}}", subsequent_indent=indent)
