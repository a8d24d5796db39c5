"""results/README.md: for each claim what was measured, its figure and table, and a verdict with its uncertainty.

Every number in it is computed from the records, so that a test can make it again. `kdtutor report` writes it.
"""

from pathlib import Path

from matplotlib.figure import Figure

from ..records import read_json, write_atomically
from .study import Study, is_complete, read
from .summary import table

START, END = "<!-- studies -->", "<!-- end of studies -->"
VERDICT = "**Verdict.** "  # begins the last paragraph of every study


def section(study: Study, folder: Path) -> tuple[str, dict[str, Figure]]:
    """A study's part of results/README.md, and its figures by name."""
    rows, settings = read(study.name, folder), read_json(folder / study.name / "settings.json")
    body, figures = study.summarize(rows)
    minutes = f", {rows['seconds'].sum() / 60:.0f} minutes of training" if "seconds" in rows else ""
    about = (
        f"{len(rows)} students{minutes}; torch {settings['torch']}, {settings['processor']}, threads: "
        f"{settings['threads']}. Record: [studies/{study.name}](studies/{study.name}). "
        f"Again: `kdtutor study {study.name}`"
    )
    pictures = [f"![{study.title}: {name}, as in the tables](studies/{study.name}/{name}.png)" for name in figures]
    heading = [f"## {study.title}", f"**Claim.** {study.claim}", f"**Asked.** {study.question}"]
    return "\n\n".join([*heading, *body, *pictures, about]), figures


def _in_a_line(study: Study, text: str) -> list[str]:
    """A row of the table at a glance: the study, linked to its section, its claim and its verdict."""
    (verdict,) = (part.removeprefix(VERDICT) for part in text.split("\n\n") if part.startswith(VERDICT))
    anchor = "".join(c for c in study.title.lower().replace(" ", "-") if c.isalnum() or c == "-")
    return [f"[{study.title}](#{anchor})", study.claim, verdict]


def write(folder: Path, studies: dict[str, Study]) -> list[str]:
    """Write the figures, and README.md beside the studies' folder. Returns those with no complete record yet."""
    rows, parts, missing = [], [], []
    for name, study in studies.items():
        if not is_complete(study, folder):
            missing.append(name)
            continue
        text, figures = section(study, folder)
        parts.append(text)
        rows.append(_in_a_line(study, text))
        for figure_name, figure in figures.items():
            figure.savefig(folder / name / f"{figure_name}.png", dpi=110, facecolor="white")
    path = folder.parent / "README.md"
    before = path.read_text(encoding="utf-8") if path.exists() else f"# Results\n\n{START}\n{END}\n"
    head, _, rest = before.partition(START)
    tail = rest.partition(END)[2]
    glance = "\n\n".join(["## At a glance", table(["study", "the claim", "what we found"], rows)])
    write_atomically(path, "\n\n".join([head + START, *([glance] if rows else []), *parts, END + tail]).encode())
    return missing
