"""The notebooks as files. nbval runs them and compares their outputs; this guards what nbval would let pass.

A cell without an execution count is never compared, a picture neither, and a stored number of a trained
network would fail on the next machine.
"""

import copy
import importlib.util
import re
import subprocess
from pathlib import Path

import nbformat
import pytest
import torch

from kdtutor import losses
from kdtutor.exercises import notebook_00, notebook_01

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def problems(notebook) -> list[str]:
    """All that keeps a notebook's stored outputs from being held to its code, or a reader from using them."""
    found = []
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernel is not python3")
    if "widgets" in notebook.metadata:
        found.append("metadata.widgets is stored")
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        found.append(f"execution counts are {counts}")
    for cell in code_cells(notebook):
        text = cell.source + " ".join(cell.metadata.get("tags", []))
        if re.search(r"nbval|raises-exception|skip-execution", text, flags=re.IGNORECASE):
            found.append("a cell is exempt from comparison")
    for output in outputs(notebook):
        if output.output_type == "error":
            found.append(f"an error is stored: {output.ename}")
        if output.output_type == "stream" and output.name == "stderr":
            found.append(f"stderr is stored: {output.text[:60]}")
        data = output.get("data", {})
        if WIDGET_VIEW in data:
            found.append("a widget's model is stored, which no other kernel knows")
        if {"text/html", "image/svg+xml", "image/jpeg"} & set(data):
            found.append(f"an output holds {sorted(data)}; pictures are PNG, and numbers plain text")
        if "image/png" in data:
            alt = output.metadata.get("image/png", {}).get("alt", "")
            if len(alt) < 20 or data.get("text/plain") != alt:
                found.append(f"a picture's alt text is {alt!r}, its text {data.get('text/plain')!r}")
        for text in (output.get("text", ""), data.get("text/plain", "")):
            if re.search(r"0x[0-9a-f]{6,}|/home/|/root/|/Users/|site-packages", text):
                found.append(f"an address or a path of one machine is stored: {text[:60]}")
    return found


def test_there_are_notebooks():
    assert [path.name[:2] for path in PATHS] == [f"{number:02}" for number in range(len(PATHS))]
    assert len(PATHS) >= 2


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_stored_outputs_are_whole_and_can_be_compared(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert problems(notebook) == []
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))


def _break(notebook, kind):
    cell = code_cells(notebook)[1]
    if kind == "kernel":
        notebook.metadata.kernelspec.name = "my-venv"
    elif kind == "widgets":
        notebook.metadata["widgets"] = {}
    elif kind == "stripped":
        cell.execution_count = None
    elif kind == "exempt":
        cell.source = "# NBVAL_SKIP\n" + cell.source
    elif kind == "error":
        cell.outputs.append(nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[]))
    elif kind == "stderr":
        cell.outputs.append(nbformat.v4.new_output("stream", name="stderr", text="warning"))
    elif kind == "address":
        cell.outputs.append(nbformat.v4.new_output("stream", name="stdout", text="<Object at 0x7f12345678>"))
    elif kind == "alt":
        next(output for output in outputs(notebook) if "image/png" in output.get("data", {})).metadata = {}
    elif kind == "model":
        cell.outputs.append(nbformat.v4.new_output("display_data", data={WIDGET_VIEW: {"model_id": "a"}}))
    elif kind == "html":
        cell.outputs.append(nbformat.v4.new_output("display_data", data={"text/html": "<table>"}))


KINDS = ("kernel", "widgets", "stripped", "exempt", "error", "stderr", "address", "alt", "model", "html")


@pytest.mark.parametrize("kind", KINDS)
def test_the_guard_sees_each_defect(kind):
    notebook = copy.deepcopy(read(PATHS[0]))
    _break(notebook, kind)
    assert len(problems(notebook)) == 1


# --- Equations ---


def tags(path):
    return re.findall(r"\\tag\{(\d+\.\d+)\}", markdown(read(path)))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_equations_are_numbered_in_order(path):
    assert tags(path) == [f"{int(path.name[:2])}.{i + 1}" for i in range(len(tags(path)))]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_equations_that_are_referred_to_exist(path):
    notebook = read(path)
    referred = re.findall(r"(?<!\w)\((\d+\.\d+)\)", "\n".join(cell.source for cell in notebook.cells))
    known = {tag for other in PATHS for tag in tags(other)}
    assert referred, "lines of code should point at their equations"
    assert set(referred) <= known


def test_equations_that_the_loss_refers_to_are_in_notebook_01():
    source = (ROOT / "kdtutor" / "losses" / "vanilla.py").read_text(encoding="utf-8")
    referred = set(re.findall(r"[Ee]quations? \((\d+\.\d+)\)", source))
    assert len(referred) >= 3
    assert referred <= set(tags(PATHS[1]))


# --- Links, and the words of the contract ---


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", markdown(read(path))):
        assert (path.parent / target).exists(), target
    for target in re.findall(r"`(kdtutor/[\w/]+\.py)`", markdown(read(path))):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_parts_that_every_notebook_has(path):
    text = markdown(read(path)).lower()
    for part in ("to run on 2 cpu cores", "what you need:", "you will be able to", "## setup", "## recap", "| word |"):
        assert part in text, part
    assert "Explorer(" in "\n".join(cell.source for cell in code_cells(read(path)))


# --- The first cell ---


def first_cell(path=PATHS[0] if PATHS else None):
    return code_cells(read(path))[0].source


def test_the_first_cell_is_the_same_everywhere():
    assert len({first_cell(path) for path in PATHS}) == 1


def test_the_first_cell_does_nothing_where_kdtutor_is(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: pytest.fail("something was installed"))
    exec(first_cell(), {})


def test_unstamped_the_first_cell_says_what_to_do(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: pytest.fail("an address was guessed"))
    with pytest.raises(ModuleNotFoundError, match=r"python -m pip install -c constraints\.txt -e \..*set HOST"):
        exec(first_cell(), {})


@pytest.mark.parametrize("absent", [("kdtutor",), ("kdtutor", "safetensors", "tyro")])
def test_stamped_the_first_cell_installs_only_what_is_missing(monkeypatch, absent):
    commands = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else object())
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    stamped = re.sub(r'^HOST = ""', 'HOST = "kdtutor @ here"', first_cell(), flags=re.MULTILINE)
    assert stamped != first_cell()
    exec(stamped, {})

    words = [word for command in commands for word in command[4:]]
    assert words[-2:] == ["--no-deps", "kdtutor @ here"]  # so that pip leaves torch, torchvision and numpy alone
    others = set(words) - {"--quiet", "--no-deps", "kdtutor @ here"}
    assert others == set(absent) - {"kdtutor"}


# --- Exercises ---


def folded_solution(path, name):
    """What `name` is in the notebook's folded solution."""
    blocks = re.findall(r"<summary>Solution</summary>\n\n```python\n(.*?)```", markdown(read(path)), flags=re.DOTALL)
    (block,) = [block for block in blocks if re.search(rf"^(def )?{name}\b", block, flags=re.MULTILINE)]
    world = {"torch": torch, "F": torch.nn.functional}
    exec(block, world)
    return world[name]


def test_solutions_of_notebook_00_are_right():
    assert notebook_00.check_row_shift(folded_solution(PATHS[0], "letter"))
    assert notebook_00.check_gram(folded_solution(PATHS[0], "gram"))
    assert notebook_00.check_step(folded_solution(PATHS[0], "my_step"))


def test_solutions_of_notebook_01_are_right():
    assert notebook_01.check_temperature_limit(folded_solution(PATHS[1], "letter"))
    assert notebook_01.check_kd_loss(folded_solution(PATHS[1], "my_kd_loss"))
    assert notebook_01.check_diagnosis(folded_solution(PATHS[1], "too_weak_by"), classes=100, temperature=4.0)
    assert notebook_01.check_mended(folded_solution(PATHS[1], "mended_kd_loss"))


def test_the_broken_loss_of_notebook_01_is_the_one_that_is_checked():
    (block,) = re.findall(r"```python\n(def broken_kd_loss.*?)```", markdown(read(PATHS[1])), flags=re.DOTALL)
    world = {"F": torch.nn.functional}
    exec(block, world)
    logits = torch.randn(2, 3, 100, generator=torch.Generator().manual_seed(0))
    for loss in (world["broken_kd_loss"], notebook_01.broken_kd_loss):
        ratio = float(losses.kd_loss(*logits, 4.0) / loss(*logits, 4.0))
        assert notebook_01.check_diagnosis(ratio, classes=100, temperature=4.0)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_exercises_are_stored_unsolved(path):
    checks = [cell for cell in code_cells(read(path)) if ".check_" in cell.source]
    assert len(checks) >= 4
    for cell in checks:
        lines = "".join(output.text for output in cell.outputs).splitlines()
        assert lines and all(line.startswith("✗ 0 of ") for line in lines), lines
