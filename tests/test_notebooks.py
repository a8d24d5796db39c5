"""The notebooks as files. nbval runs them and compares their outputs; this guards what nbval would let pass.

A cell without an execution count is never compared, a picture neither, and a stored number of a trained
network would fail on the next machine.
"""

import copy
import importlib
import importlib.metadata
import importlib.util
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch

from kdtutor import losses
from kdtutor.exercises import notebook_01

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def identity(path):
    return str(path.relative_to(ROOT / "notebooks").with_suffix(""))


main = pytest.mark.parametrize("path", PATHS, ids=identity)
solution = pytest.mark.parametrize("path", SOLUTIONS, ids=identity)
every = pytest.mark.parametrize("path", PATHS + SOLUTIONS, ids=identity)


def read(path):
    return nbformat.read(path, as_version=4)


def number(path) -> int:
    return int(path.name[:2])


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


def test_each_notebook_has_a_number_of_its_own_and_a_notebook_of_solutions():
    numbers = [number(path) for path in PATHS]
    assert numbers == sorted(set(numbers)) and {0, 1} <= set(numbers) <= set(range(9))
    assert [path.name for path in SOLUTIONS] == [path.name for path in PATHS]


@every
def test_stored_outputs_are_whole_and_can_be_compared(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert problems(notebook) == []


@main
def test_there_is_a_picture_and_an_explorer(path):
    notebook = read(path)
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))
    assert "Explorer(" in "\n".join(cell.source for cell in code_cells(notebook))


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

EQUATION = re.compile(r"(?<!\w)\((\d\.\d+)\)")  # how text and code refer to one
LOSSES = sorted(path for path in Path(losses.__file__).parent.glob("*.py") if not path.name.startswith("_"))


def tags(path):
    return re.findall(r"\\tag\{(\d+\.\d+)\}", markdown(read(path)))


def missing(text: str) -> set[str]:
    """Equations that a text refers to and a notebook should have, where that notebook exists."""
    known = {tag for path in PATHS for tag in tags(path)}
    written = {str(number(path)) for path in PATHS}
    return {name for name in EQUATION.findall(text) if name.split(".")[0] in written} - known


@main
def test_equations_are_numbered_in_order(path):
    assert tags(path) == [f"{number(path)}.{i + 1}" for i in range(len(tags(path)))]


@every
def test_equations_that_are_referred_to_exist(path):
    text = "\n".join(cell.source for cell in read(path).cells)
    assert missing(text) == set()
    if path in PATHS and tags(path):
        code = "\n".join(cell.source for cell in code_cells(read(path)))
        assert EQUATION.search(code), "lines of code should point at their equations"


@pytest.mark.parametrize("path", LOSSES, ids=lambda path: path.stem)
def test_equations_that_the_losses_refer_to_are_in_a_notebook(path):
    source = path.read_text(encoding="utf-8")
    assert EQUATION.search(source), "a loss names its equation"
    assert missing(source) == set()


def test_a_wrong_reference_is_seen():
    assert missing("equation (1.2), f(1.9) and (1.99), and (9.1) of a notebook that is not there") == {"1.99"}


# --- Links, and the words of the contract ---


@every
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", markdown(read(path))):
        assert target.startswith("https://") or (path.parent / target).exists(), target
    for target in re.findall(r"`(kdtutor/[\w/]+\.py)`", markdown(read(path))):
        assert (ROOT / target).exists(), target


@main
def test_the_parts_that_every_notebook_has(path):
    text = markdown(read(path)).lower()
    for part in ("to run on 2 cpu cores", "what you need:", "you will be able to", "## setup", "## recap", "| word |"):
        assert part in text, part


# --- The first cell ---


def first_cell(path=PATHS[0]):
    return code_cells(read(path))[0].source


def with_host(source, host):
    return re.sub(r'^HOST = ".*?"', f'HOST = "{host}"', source, flags=re.MULTILINE)


def test_the_first_cell_is_the_same_everywhere():
    assert len({first_cell(path) for path in PATHS + SOLUTIONS}) == 1


def test_the_first_cell_does_nothing_where_kdtutor_is(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: pytest.fail("something was installed"))
    exec(first_cell(), {})


@pytest.mark.parametrize("found", [None, SimpleNamespace(origin=None)], ids=["nothing", "a folder without code"])
def test_unstamped_the_first_cell_says_what_to_do(monkeypatch, found):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: pytest.fail("an address was guessed"))
    with pytest.raises(ModuleNotFoundError, match=r"python -m pip install -c constraints\.txt -e \..*set HOST"):
        exec(with_host(first_cell(), ""), {})


@pytest.mark.parametrize("absent", [("kdtutor",), ("kdtutor", "safetensors", "tyro"), ("kdtutor", "scipy", "numpy")])
def test_stamped_the_first_cell_installs_only_what_is_missing(monkeypatch, absent):
    commands = []
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else SimpleNamespace(origin=name)
    )
    monkeypatch.setattr(importlib.metadata, "version", {"torch": "2.9", "torchvision": "0.24", "numpy": "1.26"}.get)
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    exec(with_host(first_cell(), "kdtutor @ here"), {})

    assert all(command[1:5] == ["-m", "pip", "install", "--quiet"] and command[0] for command in commands)
    *before, last = [command[5:] for command in commands]
    assert last == ["--no-deps", "kdtutor @ here"]
    small = set(absent) - {"kdtutor", "numpy"}
    # What is large and already there is asked for in just that version, so that no small one can bring another.
    kept = {"torch==2.9", "torchvision==0.24"} | (set() if "numpy" in absent else {"numpy==1.26"})
    assert [set(command) for command in before] == ([small | kept] if small else [])


# --- Exercises and their solutions ---

CHECK = re.compile(r"\.(check_\w+)\(")


def checks(path) -> list[str]:
    return [name for cell in code_cells(read(path)) for name in CHECK.findall(cell.source)]


def printed(cell) -> list[str]:
    """What a cell printed, line by line; a long hint goes on in the next line, indented."""
    return "".join(output.get("text", "") for output in cell.outputs).replace("\n  ", " ").splitlines()


def verdicts(cell) -> list[str]:
    """What the checks of a cell said."""
    return [line for line in printed(cell) if line.startswith(("✓", "✗"))]


@main
def test_exercises_are_stored_unsolved(path):
    cells = [cell for cell in code_cells(read(path)) if CHECK.search(cell.source)]
    assert len(cells) >= 4
    for cell in cells:
        lines = printed(cell)
        assert lines == verdicts(cell) and len(lines) == len(CHECK.findall(cell.source))
        assert all(line.startswith("✗ 0 of ") for line in lines), lines
    assert markdown(read(path)).count(f"(solutions/{path.name})") >= 4


@solution
def test_every_solution_has_all_points(path):
    exercises, notebook = path.parents[1] / path.name, read(path)
    assert set(checks(path)) == set(checks(exercises))
    for cell in code_cells(notebook):
        said = verdicts(cell)
        assert len(said) == len(CHECK.findall(cell.source))
        assert all(re.fullmatch(r"✓ (\d+) of \1 points", line) for line in said), said


@solution
def test_solutions_begin_as_their_notebook_does(path):
    exercises = path.parents[1] / path.name
    for ours, theirs in zip(code_cells(read(path))[:2], code_cells(read(exercises))[:2], strict=True):
        assert ours.source == theirs.source
    assert markdown(read(path)).startswith(markdown(read(exercises)).split("\n")[0] + ": solutions\n")
    assert f"(../{path.name})" in markdown(read(path))


def test_the_broken_loss_of_notebook_01_is_the_one_that_is_checked():
    (block,) = re.findall(r"```python\n(def broken_kd_loss.*?)```", markdown(read(PATHS[1])), flags=re.DOTALL)
    world = {"F": torch.nn.functional}
    exec(block, world)
    logits = torch.randn(2, 3, 100, generator=torch.Generator().manual_seed(0))
    for loss in (world["broken_kd_loss"], notebook_01.broken_kd_loss):
        ratio = float(losses.kd_loss(*logits, 4.0) / loss(*logits, 4.0))
        assert notebook_01.check_diagnosis(ratio, classes=100, temperature=4.0)
