"""A full disk, and folders that may only be read: an error that names the file, and what there was stays.

The faults are real: a limit on the size of files stands for the full disk, and root gives up its right to write
everywhere. Windows has neither.
"""

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from crash_worker import SETTINGS, toy
from crash_worker import train as train_whole
from rights import ROOT_KEEPS_ITS_RIGHTS, read_only, without_rights

from kdtutor import models, studies
from kdtutor.data import DataError, load
from kdtutor.exercises import notebook_00, points
from kdtutor.records import RunFolder, write_atomically
from kdtutor.train import distill

if sys.platform == "win32":
    pytest.skip("limits and permissions of Unix", allow_module_level=True)

import resource

pytestmark = pytest.mark.usefixtures("one_thread")  # as crash_worker.train


@contextlib.contextmanager
def disk_with_room_for(size: int):
    """Files cannot grow beyond `size` bytes, as on a disk that has no more room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files(folder: Path) -> dict[str, bytes]:
    """All that a folder holds, but the lock of a run."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    }  # fmt: skip


def run_python(code: str, *arguments, **environment) -> subprocess.CompletedProcess:
    """In a process to which permissions apply. Skips where root cannot give up its rights."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{code}", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, preexec_fn=without_rights,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if done.returncode == ROOT_KEEPS_ITS_RIGHTS:
        pytest.skip("root keeps its rights here")
    return done


# --- A full disk ---


@pytest.mark.parametrize("room", [0, 1, 4096])
def test_the_old_file_stays_and_the_new_one_is_named(tmp_path, room):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with disk_with_room_for(room), pytest.raises(OSError, match=re.escape(str(path))):
        write_atomically(path, bytes(5000))
    assert files(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize("room", [0, 300, 5000])
def test_a_run_that_meets_a_full_disk_goes_on_when_there_is_room(tmp_path, monkeypatch, same, room):
    """At the settings, at the table of epochs and at the checkpoint; the last good epoch counts."""
    save, full = RunFolder.save, contextlib.ExitStack()

    def third_meets_a_full_disk(self, epochs, tensors):
        if len(epochs) == 3:
            full.enter_context(disk_with_room_for(room))
        save(self, epochs, tensors)
        before.update(files(self.path))

    before = {}
    student, teacher = models.build("cnn4k", 4, 1, seed=0), models.build("cnn14k", 4, 1, seed=1)
    with monkeypatch.context() as patched, full, pytest.raises(OSError, match=re.escape(str(tmp_path))):
        patched.setattr(RunFolder, "save", third_meets_a_full_disk)
        distill(student, toy(), "stkd", teacher, SETTINGS, folder=tmp_path, progress=False)
    after = files(tmp_path)
    assert after["checkpoint.safetensors"] == before["checkpoint.safetensors"]
    assert after["settings.json"] == before["settings.json"]
    assert not [name for name in after if name.endswith(".part")]
    assert same(train_whole(tmp_path, "stkd"), train_whole(None, "stkd")) == []


def test_a_new_run_on_a_full_disk(tmp_path, toy, student, settings):
    with disk_with_room_for(10), pytest.raises(OSError, match=r"settings\.json"):
        distill(student(), toy, "ce", settings=settings, folder=tmp_path / "run", progress=False)
    assert files(tmp_path) == {}
    distill(student(), toy, "ce", settings=settings, folder=tmp_path / "run", progress=False)


def test_unpacking_data(tmp_path, monkeypatch):
    monkeypatch.setenv("KDTUTOR_CACHE", str(tmp_path))
    with disk_with_room_for(2**20), pytest.raises(DataError, match=r"cannot write .*make room, or set KDTUTOR_CACHE"):
        load("fashion-mnist")
    assert files(tmp_path) == {}


def test_a_study_keeps_its_rows(tmp_path):
    trials = [{"method": "a", "seed": seed} for seed in range(40)]
    study = studies.Study("small", "?", lambda rows: trials, lambda trial: {"top1": 0.5}, {}, "", "", lambda rows: None)
    with disk_with_room_for(300), pytest.raises(OSError, match=r"students\.csv"):
        studies.run(study, tmp_path, progress=False)
    some = len(studies.read("small", tmp_path))
    assert 0 < some < 40
    rows = studies.run(dataclasses.replace(study, train=lambda trial: {"top1": 0.6}), tmp_path, progress=False)
    assert list(rows["top1"]) == [0.5] * some + [0.6] * (40 - some)


def test_points_are_kept(tmp_path, monkeypatch, capsys):
    file = tmp_path / "points.json"
    monkeypatch.setenv("KDTUTOR_PROGRESS", str(file))
    monkeypatch.setattr(points, "_said", set())
    file.write_text('{"format": "kdtutor progress 1", "points": {"notebook_01.check_temperatures": 3}}')
    before = files(tmp_path)
    with disk_with_room_for(10):
        assert notebook_00.check_row_shift("c"), "the check answers all the same"
    assert files(tmp_path) == before
    assert "not kept" in capsys.readouterr().err


# --- Folders that may only be read ---

TRAIN = "from crash_worker import train; train(sys.argv[1], 'kd')"


def test_permissions_apply(tmp_path):
    """Or else the tests below would test nothing."""
    with read_only(tmp_path):
        done = run_python("open(sys.argv[1], 'w')", str(tmp_path / "file"))
    assert "PermissionError" in done.stderr


def test_a_run_cannot_be_made_there(tmp_path):
    for folder in (tmp_path, tmp_path / "run"):
        with read_only(tmp_path):
            done = run_python(TRAIN, str(folder))
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert "PermissionError" in last and str(folder) in last, "and not: in use by another process"
    assert files(tmp_path) == {}


def test_a_stopped_run_cannot_go_on_there_and_is_kept(tmp_path, same):
    stop = "import kdtutor.train as t; t.RunFolder.finish = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)"
    assert run_python(f"{stop}\n{TRAIN}", str(tmp_path)).returncode == 0
    before = files(tmp_path)
    assert set(before) == {"settings.json", "epochs.csv", "checkpoint.safetensors"}
    with read_only(tmp_path):
        done = run_python(TRAIN, str(tmp_path))
    assert done.returncode == 1 and str(tmp_path) in done.stderr.splitlines()[-1]
    assert files(tmp_path) == before
    assert same(train_whole(tmp_path, "kd"), train_whole(None, "kd")) == []


def test_a_finished_run_can_be_read_there(tmp_path):
    train_whole(tmp_path, "kd")
    before = files(tmp_path)
    with read_only(tmp_path):
        done = run_python(TRAIN, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == before


def test_the_command_says_it_in_one_line(tmp_path):
    with read_only(tmp_path):
        done = run_python(
            "from kdtutor.cli import main; sys.argv[1:1] = ['compare', '--methods', 'ce', '--folder']; main()",
            str(tmp_path / "run"),
        )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("kdtutor: ") and str(tmp_path / "run") in line


def test_a_cache_that_may_only_be_read(tmp_path):
    with read_only(tmp_path):
        done = run_python("from kdtutor import data; data.load('fashion-mnist')", KDTUTOR_CACHE=str(tmp_path))
    assert f"cannot write to {tmp_path}; set KDTUTOR_CACHE" in done.stderr.splitlines()[-1]
