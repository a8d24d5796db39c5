"""Write the figures of results/speed into benchmarks/README.md, so that its table is what was measured.

python benchmarks/table.py
"""

import json
from pathlib import Path

from measure import RECORDS

README = Path(__file__).with_name("README.md")
START, END = "<!-- figures -->", "<!-- end of figures -->"


def record(name: str):
    path = RECORDS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["result"] if path.exists() else None


def row(what: str, value: float, target: float, command: str, at_least: bool = False) -> str:
    met = value >= target if at_least else value <= target
    cells = (what, f"{value:.2f}", f"{'≥' if at_least else '≤'} {target:g}", "yes" if met else "**no**")
    return f"| {' | '.join(cells)} | `python benchmarks/{command}.py` |"


def rows() -> list[str]:
    lines = ["| what, as a ratio unless a unit is named | measured | target | met | command |", "|---|---|---|---|---|"]
    for student, outcome in (record("remembered") or {}).items():
        for name, one in outcome["epochs_of_ce"].items():
            what = f"epoch of {name} over an epoch of cross-entropy, {student}"
            lines.append(row(what, one["cost"], one["target"], "remembered"))
    for name, outcome in (record("loop") or {}).items():
        what = f"images per second over the usual loop, {name}"
        lines.append(row(what, outcome["times_usual"], outcome["target"], "loop", at_least=True))
    if startup := record("startup"):
        value = startup["times_import_torch"]["import kdtutor"]
        lines.append(row("`import kdtutor` over `import torch`", value, startup["target"], "startup"))
    for classes, outcome in (record("soft_rank") or {}).items():
        if "times_torchsort" in outcome["ours"]:
            what = f"soft rank over torchsort, {classes} classes"
            lines.append(row(what, outcome["ours"]["times_torchsort"], outcome["ours"]["target"], "soft_rank"))
        if classes == "1000":
            lines.append(row("soft rank, 1000 classes, MiB", outcome["ours"]["peak_mib"], 2048, "soft_rank"))
    for batch, losses in (record("relations") or {}).items():
        cube = int(batch) ** 3 * 4 / 2**20  # MiB of one tensor of B^3 float32 numbers
        if "rkd_angle" in losses and cube > 16:  # so many are held at a time
            what = f"RKD angles, batch {batch}, peak over one B³ tensor ({cube:,.0f} MiB)"
            lines.append(row(what, losses["rkd_angle"]["ours"]["peak_mib"] / cube, 1.0, "relations"))
    if nystrom := record("nystrom"):
        for name, exponents in nystrom["scaling"]["exponents"].items():
            lines.append(row(f"{name}: exponent of time", exponents["time"], 1.1, "nystrom"))
            lines.append(row(f"{name}: exponent of memory", round(exponents["memory"], 2), 1.0, "nystrom"))
    return lines


def relation_table(relations: dict) -> list[str]:
    """Time and memory of every relation; a ratio above 1 is a target missed."""
    lines = [
        "Relations, forward and backward (`python benchmarks/relations.py`); the target is a ratio of at most 1:",
        "",
        "| loss | batch | ours, ms | over plain | over usual | peak MiB: ours | plain | usual |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for batch, losses in relations.items():
        for name, outcome in losses.items():
            ours = outcome["ours"]
            cells = [name, batch, f"{ours['milliseconds']:.2f}" if "milliseconds" in ours else ""]
            for peer in ("plain", "usual"):
                ratio = ours.get(f"times_{peer}")
                cells.append("" if ratio is None else f"{ratio:.2f}" if ratio <= 1 else f"**{ratio:.2f}**")
            cells += [
                f"{outcome[who]['peak_mib']:,.1f}" if who in outcome else "" for who in ("ours", "plain", "usual")
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def pooling_table(soft_rank: dict) -> list[str]:
    """The ways that were tried to find which entries of a soft rank are pooled."""
    counts = [classes for classes, outcome in soft_rank.items() if "pooling_alone" in outcome]
    times = {classes: soft_rank[classes]["pooling_alone"]["milliseconds"] for classes in counts}
    rows = [f"{soft_rank[classes]['pooling_alone']['rows']} rows" for classes in counts]
    headings = [f"{classes} classes, {of}" for classes, of in zip(counts, rows, strict=True)]
    lines = [
        "Ways to find the blocks of a soft rank, milliseconds forward (`python benchmarks/soft_rank.py`):",
        "",
        f"| way | {' | '.join(headings)} |",
        "|---" * (len(counts) + 1) + "|",
    ]
    for way in dict.fromkeys(way for of in times.values() for way in of):
        cells = [f"{times[classes][way]:,.2f}" if way in times[classes] else "" for classes in counts]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines


def scaling_table(scaling: dict) -> list[str]:
    """Milliseconds and MiB against the number of examples."""
    found = {(one["what"], one["examples"]): one for one in scaling["rows"]}
    whats, counts = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
    lines = [
        "From 10³ to 10⁶ examples, time and peak memory (`python benchmarks/nystrom.py`). The full matrix fills all "
        f"free memory at {scaling['full_matrix_stops_at']:,} examples:",
        "",
        f"| examples | {' | '.join(whats)} |",
        "|---" * (len(whats) + 1) + "|",
    ]
    for count in counts:
        cells = [found.get((what, count)) for what in whats]
        said = [f"{one['milliseconds']:,.1f} ms, {one['peak_mib']:,.1f} MiB" if one else "" for one in cells]
        lines.append(f"| {count:,} | {' | '.join(said)} |")
    return lines


def landmark_tables(landmarks: dict) -> list[str]:
    """Relative error of the kernel matrix, a table for each kernel."""
    lines = [
        f"Relative error of the kernel matrix of {landmarks['examples']:,} Fashion-MNIST test images in the features "
        f'of the teacher "base" (D = {landmarks["width"]}), with landmarks from training images:',
    ]
    for kernel, by_choice in landmarks["errors"].items():
        counts = list(next(iter(by_choice.values())))
        lines += ["", f"| {kernel}, K = | " + " | ".join(counts) + " |", "|---" * (len(counts) + 1) + "|"]
        for name, errors in by_choice.items():
            lines.append(f"| {name} | " + " | ".join(f"{errors[count]:.4f}" for count in counts) + " |")
    return [*lines, "", "![The same as curves](../results/speed/landmarks.png)"]


def main():
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[-1]
    tables = [rows()]
    if soft_rank := record("soft_rank"):
        tables.append(pooling_table(soft_rank))
    if relations := record("relations"):
        tables.append(relation_table(relations))
    if nystrom := record("nystrom"):
        tables += [scaling_table(nystrom["scaling"]), landmark_tables(nystrom["landmarks"])]
    figures = "\n\n".join("\n".join(table) for table in tables)
    README.write_text(f"{before}{START}\n\n{figures}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
