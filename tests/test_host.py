"""Stamping the notebooks for a host: what is written, that nothing else is, and that it can be undone."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from kdtutor import __version__
from kdtutor.host import HostError, stamp_all

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture
def folder(tmp_path):
    """The course's notebooks without a stamp, as we ship them."""
    shutil.copytree(NOTEBOOKS, tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    stamp_all(tmp_path / "notebooks", "", remove=True)
    return tmp_path / "notebooks"


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def notebooks(folder):
    return sorted(folder.rglob("*.ipynb"))


def cells(path):
    """The title, and the first cell of code."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook.cells[0].source, next(cell.source for cell in notebook.cells if cell.cell_type == "code")


def test_unstamped_there_is_no_badge_and_no_address(folder):
    for path in notebooks(folder):
        assert "colab" not in cells(path)[0].lower()
        assert 'HOST = ""' in cells(path)[1] and "http" not in cells(path)[1]


def test_every_notebook_is_stamped_with_a_pinned_tag(folder):
    changed = stamp_all(folder, "a-school/kd.course_2")
    assert changed == notebooks(folder) and len(changed) >= 4
    for path in changed:
        title, first = cells(path)
        place = path.relative_to(folder.parent).as_posix()
        badge = title.split("\n")[2]
        (link,) = re.findall(r"\]\((https://colab\.research\.google\.com/github/[^)]*)\)$", badge)
        assert link.endswith(f"/github/a-school/kd.course_2/blob/v{__version__}/{place}")
        assert title.startswith("# ") and badge.startswith("[![Open in Colab](https://")
        world = {}
        exec(re.search(r"(?m)^HOST = .*$", first)[0], world)
        archive = f"https://github.com/a-school/kd.course_2/archive/refs/tags/v{__version__}.zip"
        assert world["HOST"] == f"kdtutor @ {archive}"


def test_nothing_else_changes(folder):
    before = contents(folder)
    stamp_all(folder, "me/kdtutor")
    for path, content in contents(folder).items():
        old, new = before[path].decode(), content.decode()
        if path.suffix != ".ipynb":
            assert old == new
            continue
        new_lines = new.split("\n")
        badge = next(i for i, line in enumerate(new_lines) if "Open in Colab" in line)
        del new_lines[badge : badge + 2]
        differing = [(a, b) for a, b in zip(old.split("\n"), new_lines, strict=True) if a != b]
        assert len(differing) == 1 and all("HOST = " in line for line in differing[0])


def test_stamping_twice_is_stamping_once_and_a_fork_replaces_it(folder):
    original = contents(folder)
    stamp_all(folder, "me/kdtutor")
    once = contents(folder)
    assert stamp_all(folder, "me/kdtutor") == [] and contents(folder) == once
    stamp_all(folder, "another/fork", tag="spring-2027")
    text = b"".join(contents(folder).values()).decode()
    assert "me/kdtutor" not in text and text.count("another/fork/blob/spring-2027/") == len(notebooks(folder))
    stamp_all(folder, "me/kdtutor")
    assert contents(folder) == once
    stamp_all(folder, "", remove=True)
    assert contents(folder) == original
    assert stamp_all(folder, "", remove=True) == []


def test_line_endings_stay(folder):
    for path in notebooks(folder):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    original = contents(folder)
    stamp_all(folder, "me/kdtutor")
    for path in notebooks(folder):
        assert path.read_bytes().count(b"\n") == path.read_bytes().count(b"\r\n")
        assert "Open in Colab" in cells(path)[0]
    stamp_all(folder, "", remove=True)
    assert contents(folder) == original


BAD_REPOSITORIES = (
    "", "kdtutor", "a/b/c", "/kdtutor", "me/", "me/..", "me/.git", "me/kdtutor.git", "-me/kdtutor", "me-/kdtutor",
    "me/kd tutor", "https://github.com/me/kdtutor", "me/kdtutor\n", 'me/kd"tutor', "me/kd\\tutor", "me/kd)tutor",
    "mé/kdtutor", "a" * 40 + "/b",
)  # fmt: skip
BAD_TAGS = ("", "v 1", "v1/../..", "..", "v..1", "v1.", "v1.lock", ".v1", "v1\n", 'v1"', "v1)", "v1@{0}", "-v1")


@pytest.mark.parametrize("repository", BAD_REPOSITORIES)
def test_malformed_repositories(folder, repository):
    before = contents(folder)
    with pytest.raises(HostError, match=r"(?s)repository is .*, wanted OWNER/REPO"):
        stamp_all(folder, repository)
    assert contents(folder) == before


@pytest.mark.parametrize("tag", BAD_TAGS)
def test_malformed_tags(folder, tag):
    before = contents(folder)
    with pytest.raises(HostError, match=r"(?s)tag is .*, wanted the name of a tag of me/kdtutor"):
        stamp_all(folder, "me/kdtutor", tag)
    assert contents(folder) == before


@pytest.mark.parametrize(("take", "named"), [("HOST = ", "no line HOST"), ("# 01 · ", "no title")])
def test_one_notebook_without_a_place_for_a_stamp_and_none_is_touched(folder, take, named):
    path = folder / "01_vanilla_kd.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace(take, "x"), encoding="utf-8")
    before = contents(folder)
    with pytest.raises(HostError, match=f"01_vanilla_kd.ipynb has {named}"):
        stamp_all(folder, "me/kdtutor")
    assert contents(folder) == before


def test_no_notebooks(tmp_path):
    with pytest.raises(HostError, match="has no notebooks"):
        stamp_all(tmp_path, "me/kdtutor")


def test_on_the_command_line(folder):
    def run(*arguments):
        command = [sys.executable, "-m", "kdtutor", "host", *arguments, "--folder", str(folder)]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300)

    original = contents(folder)
    done = run("me/kdtutor", "--tag", "v1.2")
    assert done.returncode == 0 and done.stdout.splitlines() == [str(path) for path in notebooks(folder)]
    assert "me/kdtutor/archive/refs/tags/v1.2.zip" in json.dumps(cells(folder / "00_start_here.ipynb"))
    wrong = run("kdtutor")
    assert wrong.returncode == 1 and wrong.stderr.startswith("kdtutor: repository is 'kdtutor', wanted OWNER/REPO")
    assert run("--remove").returncode == 0 and contents(folder) == original
