"""A reader's points: only improvements are kept, and no file, however bad, breaks a check or is lost."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdtutor.exercises import Result, notebook_00, notebook_01, overview, points, progress

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "somewhere, ü" / "points.json"
    monkeypatch.setenv("KDTUTOR_PROGRESS", str(path))
    monkeypatch.setattr(points, "_said", set())
    return path


def kept(file):
    return json.loads(file.read_text(encoding="utf-8"))["points"]


def solve(letter="c"):
    return notebook_00.check_row_shift(letter)


# --- What is kept ---


def test_the_best_points_are_kept_and_never_fewer(file):
    assert not solve("a") and not file.exists()
    assert solve() and kept(file) == {"notebook_00.check_row_shift": 1}
    before = file.stat().st_mtime_ns
    assert not solve("a") and solve()
    assert file.stat().st_mtime_ns == before
    notebook_01.check_temperatures({1: [0.8, 0.8]}, 1, 1)
    notebook_01.check_temperatures({}, None, 0)
    assert kept(file) == {"notebook_00.check_row_shift": 1, "notebook_01.check_temperatures": 5}
    notebook_01.check_temperatures({1: [0.8, 0.8], 2: [0.8, 0.8], 4: [0.9, 0.9], 8: [0.7, 0.7]}, 4, 1)
    assert kept(file)["notebook_01.check_temperatures"] == 6
    assert [path.name for path in file.parent.iterdir()] == [file.name]  # nothing half written is left


def test_what_another_version_kept_stays(file):
    file.parent.mkdir()
    file.write_text(json.dumps({"format": points.FORMAT, "points": {"notebook_12.check_more": 7}}))
    solve()
    assert kept(file) == {"notebook_12.check_more": 7, "notebook_00.check_row_shift": 1}


def test_checks_stay_plain_functions():
    assert list(inspect.signature(notebook_01.check_diagnosis).parameters) == ["too_weak_by", "classes", "temperature"]
    assert notebook_00.check_gram.__doc__.startswith("gram(features)")
    assert isinstance(solve(), Result)


def test_a_link_stays_a_link(file, tmp_path):
    file.parent.mkdir()
    real = tmp_path / "real.json"
    try:
        file.symlink_to(real)
    except OSError:
        pytest.skip("this system lets nobody make links")
    solve()
    assert file.is_symlink() and kept(real)


def test_the_file_is_in_the_home_folder_unless_told(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("KDTUTOR_PROGRESS")
    solve()
    assert kept(tmp_path / ".kdtutor" / "progress.json")


def test_tests_use_a_file_of_their_own():
    assert "kdtutor-tests-" in os.environ["KDTUTOR_PROGRESS"]


# --- Files that cannot be used ---

OURS = f'{{"format": "{points.FORMAT}", "points": '
BAD = {
    "empty": b"",
    "cut short": (OURS + '{"notebook_00.check_r').encode(),
    "not text": bytes(range(256)),
    "another's": b'{"points": {"notebook_00.check_row_shift": 0}}',
    "a list": b"[1, 2]",
    "null": b"null",
    "a later format": b'{"format": "kdtutor progress 2", "points": {}}',
    "points of a list": (OURS + "[1]}").encode(),
    "points of words": (OURS + '{"notebook_00.check_row_shift": "many"}}').encode(),
    "negative points": (OURS + '{"notebook_00.check_row_shift": -1}}').encode(),
    "half a point": (OURS + '{"notebook_00.check_row_shift": 0.5}}').encode(),
    "true points": (OURS + '{"notebook_00.check_row_shift": true}}').encode(),
    "very deep": b"[" * 100_000,
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_bad_file_is_named_once_and_left_as_it_is(file, capsys, content):
    file.parent.mkdir()
    file.write_bytes(content)
    assert solve() and solve() and not solve("a")
    assert file.read_bytes() == content and len(list(file.parent.iterdir())) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert str(file) in said and "KDTUTOR_PROGRESS" in said
    assert [row[1] for row in progress().rows] == [0] * len(progress().rows)
    assert str(file) in capsys.readouterr().err


def test_places_where_nothing_can_be_written(file, tmp_path, monkeypatch, capsys):
    def complained():
        return str(tmp_path) in capsys.readouterr().err

    file.mkdir(parents=True)
    assert solve() and complained()  # a folder
    in_the_way = tmp_path / "in the way"
    in_the_way.write_text("")
    monkeypatch.setenv("KDTUTOR_PROGRESS", str(in_the_way / "points.json"))
    assert solve() and complained()  # below a file
    monkeypatch.setenv("KDTUTOR_PROGRESS", str(tmp_path / "points.json"))
    monkeypatch.setattr(
        points, "write_json", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no", str(tmp_path)))
    )
    assert solve() and complained()


def test_no_home_folder(monkeypatch, capsys):
    monkeypatch.delenv("KDTUTOR_PROGRESS")
    monkeypatch.setattr(points, "_said", set())
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory")))
    assert solve()
    assert "home directory" in capsys.readouterr().err
    assert "kept nowhere" in str(progress())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name are Unix's")
def test_a_pipe_does_not_hang(file, capsys):
    file.parent.mkdir()
    os.mkfifo(file)
    assert solve() and "not a file" in capsys.readouterr().err


# --- The table ---


def test_the_table_adds_up(file):
    solve()
    notebook_01.check_temperatures({1: [0.8, 0.8]}, 1, 1)
    table = progress().table
    assert list(table["what"].str[:2]) == [*overview.COURSE, "al"]
    course, last = table[:-1], table.iloc[-1]
    assert list(course["points"])[:2] == [1, 5] and course["points"].sum() == last["points"] == 6
    assert course["of"].sum() == last["of"] == sum(e.points for e in points.EXERCISES.values())
    one = progress(1).table
    assert one["of"].sum() == course["of"][1] and not any(one["done"])
    first = progress("00").table.iloc[0]
    assert (first["points"], first["of"], first["done"]) == (1, 1, "✓")


def test_more_points_than_there_are_count_once(file):
    file.parent.mkdir()
    file.write_text(OURS + '{"notebook_00.check_row_shift": 99}}')
    assert progress(0).rows[0][1:] == (1, 1, "✓")


def test_text_and_page(file):
    solve()
    text = str(progress("00"))
    assert re.search(r"(?m)^1 recall: .* 1 of +1  ✓$", text) and text.endswith(f"kept in {file}")
    assert repr(progress("00")) == text
    assert "<table" in progress()._repr_html_()


def test_an_unknown_notebook():
    with pytest.raises(ValueError, match="notebook is 9, wanted one of 00, 01"):
        progress(9)


def test_on_the_command_line(file):
    solve()

    def run(*arguments):
        command = [sys.executable, "-m", "kdtutor", "progress", *arguments]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300)

    assert run().stdout.strip() == str(progress())
    assert run("0").stdout.strip() == str(progress("00"))
    wrong = run("9")
    assert wrong.returncode == 1 and wrong.stderr.startswith("kdtutor: notebook is") and "Traceback" not in wrong.stderr


# --- The course ---


def notebook_sources():
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        yield path, [cell for cell in cells if cell["cell_type"] == "code"]


def test_what_is_declared_is_what_the_notebooks_ask_and_give():
    """Each check that a notebook calls keeps its points, and its stored output says out of how many."""
    progress()  # imports all modules
    asked = {}
    for path, cells in notebook_sources():
        for cell in cells:
            names = re.findall(r"\.(check_\w+)\(", "".join(cell["source"]))
            text = "".join("".join(output.get("text", [])) for output in cell["outputs"])
            out_of = re.findall(r"(?m)^✗ 0 of (\d+) points", text)
            for name, most in zip(names, out_of, strict=True):
                asked[f"notebook_{path.name[:2]}.{name}"] = int(most)
    written = {path.name[:2] for path, _ in notebook_sources()}
    declared = {key: e.points for key, e in points.EXERCISES.items() if e.notebook in written}
    assert declared == asked


def test_exercises_are_numbered_as_in_the_notebook():
    progress()
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        numbers = [e.number for e in points.EXERCISES.values() if e.notebook == path.name[:2]]
        assert numbers == sorted(numbers) and set(numbers) == set(range(1, max(numbers) + 1)), path.name
        assert len({e.title for e in points.EXERCISES.values() if e.notebook == path.name[:2]}) == len(numbers)
