"""The doctor: all is well here, and each thing that can be wrong is found, with what to do, and no traceback."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest
import torch

from kdtutor import data, doctor, settings, teachers

ROOT = Path(__file__).parents[1]


def run(**environment):
    return subprocess.run(
        [sys.executable, "-m", "kdtutor", "doctor"],
        env={**os.environ, **environment}, capture_output=True, text=True, encoding="utf-8", timeout=300,
    )  # fmt: skip


def only(examination) -> doctor.Finding:
    """The one finding of an examination."""
    (finding,) = examination()
    return finding


@pytest.fixture
def last_of(monkeypatch):
    """The last finding when one examination is all that examine() makes."""

    def last(examination) -> doctor.Finding:
        monkeypatch.setattr(doctor, "EXAMINATIONS", (examination,))
        return list(doctor.examine())[-1]

    return last


# --- All together ---


def test_here_it_finds_no_problem(tmp_path):
    done = run(KDTUTOR_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    *lines, _, last = done.stdout.splitlines()
    assert all(line.startswith(("ok ", "note ", "warning ", "   ")) for line in lines)
    assert last.startswith(("All is well", "The course runs"))
    for what in ("Python", "torch:", "torchvision with", "sliders", "Fashion-MNIST", "teacher base", "GPU", "Chromium"):
        assert what in done.stdout, what


@pytest.mark.parametrize("broken", ["torch", "torchvision", "ipywidgets", "packaging", "jupyter_core"])
def test_a_package_that_cannot_be_imported(tmp_path, broken):
    (tmp_path / f"{broken}.py").write_text("raise ImportError('libc10.so: cannot open\\nshared object file')")
    done = run(PYTHONPATH=str(tmp_path), KDTUTOR_CACHE=str(tmp_path))
    assert "Traceback" not in done.stdout + done.stderr
    assert "Python: 3." in done.stdout and "Chromium" in done.stdout  # the first and the last
    if broken == "ipywidgets":
        return  # its kernel half is examined by its version alone
    assert done.returncode == 1
    assert "libc10.so" in done.stdout and "→" in done.stdout and "Problems:" in done.stdout


def test_the_command_reaches_the_doctor_before_anything_else():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["scripts"]["kdtutor"] == "kdtutor.__main__:main"


def test_one_examination_that_fails_leaves_the_others(monkeypatch):
    def _heart():
        yield doctor.Finding(doctor.OK, "left half", "beats")
        raise KeyError("right half")

    monkeypatch.setattr(doctor, "EXAMINATIONS", (_heart, doctor._python))
    left, right, python = doctor.examine()
    assert (left.grade, right.grade, python.grade) == ("ok", "problem", "ok")
    assert "heart" in str(right) and "KeyError" in str(right) and "pip install" in str(right)


# --- Each finding ---


def test_python_that_is_too_old(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    assert only(doctor._python).grade == "problem" and "3.11" in str(only(doctor._python))


def test_packages_that_are_missing_or_too_old(monkeypatch):
    def version(name):
        if name == "tyro":
            raise metadata.PackageNotFoundError(name)
        return {"torch": "2.10.0+cpu", "matplotlib": "3.9rc1"}.get(name, "99")

    asked = ["torch>=2.11", "tyro>=0.9", "matplotlib>=3.8", "pandas>=2.2", "pytest>=8 ; extra == 'test'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: asked)
    monkeypatch.setattr(doctor.metadata, "version", version)
    findings = list(doctor._packages())
    assert [finding.what for finding in findings] == ["torch", "tyro", "matplotlib", "pandas"]
    assert [finding.grade for finding in findings] == ["problem", "problem", "ok", "ok"]
    assert findings[0].said == "2.10.0+cpu" and "torch>=2.11" in findings[0].advice


def test_torchvision_of_another_torch(monkeypatch):
    import torchvision.ops

    def nms(*arguments):
        raise RuntimeError("operator torchvision::nms does not exist\nmore")

    monkeypatch.setattr(torchvision.ops, "nms", nms)
    finding = only(doctor._torchvision)
    assert finding.grade == "problem" and finding.said.endswith("nms does not exist") and "together" in finding.advice


def test_sliders_without_their_browser_half(monkeypatch, tmp_path):
    import jupyter_core.paths

    monkeypatch.setattr(jupyter_core.paths, "jupyter_path", lambda *parts: [str(tmp_path)])
    finding = only(doctor._widgets)
    assert finding.grade == "problem" and "jupyterlab_widgets" in finding.advice


@pytest.mark.parametrize(
    ("python", "grade"), [("python", "ok"), ("python3", "ok"), ("/elsewhere/bin/python", "warning")]
)
def test_the_kernel_of_another_python(monkeypatch, python, grade):
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", lambda self, name: KernelSpec(argv=[python]))
    assert only(doctor._kernel).grade == grade
    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", lambda self, name: KernelSpec(argv=[sys.executable]))
    assert only(doctor._kernel).grade == "ok"


def changed_copy(tmp_path, relative, monkeypatch, module):
    """shipped() for a copy of one shipped folder in which one file is not what it was."""
    folder = tmp_path / "shipped"
    original = data.shipped(relative)
    shutil.copytree(original.parent, folder)
    content = (folder / original.name).read_bytes()
    (folder / original.name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr(module, "shipped", lambda name: folder / Path(name).name)


def test_a_changed_data_file(tmp_path, monkeypatch, last_of):
    from kdtutor.data import sources

    monkeypatch.setenv("KDTUTOR_CACHE", str(tmp_path / "cache"))
    changed_copy(tmp_path, "fashion-mnist/t10k-labels-idx1-ubyte.gz", monkeypatch, sources)
    finding = last_of(doctor._data)
    assert finding.grade == "problem" and "t10k-labels" in finding.said and finding.advice


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, last_of):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDTUTOR_CACHE", str(tmp_path / "file" / "cache"))
    finding = last_of(doctor._data)
    assert finding.grade == "problem" and "set KDTUTOR_CACHE" in finding.said


def test_changed_weights(tmp_path, monkeypatch, last_of):
    changed_copy(tmp_path, "teachers/base.safetensors", monkeypatch, teachers.data)
    finding = last_of(doctor._teachers)
    assert finding.grade == "problem" and "base.safetensors is not the file" in finding.said


def test_solutions_that_are_missing(tmp_path, monkeypatch):
    (tmp_path / "00_a.ipynb").write_text("")
    monkeypatch.setattr(data, "shipped", lambda name: tmp_path)
    assert only(doctor._notebooks).grade == "problem"


def test_points_that_cannot_be_read(tmp_path, monkeypatch):
    file = tmp_path / "points.json"
    monkeypatch.setenv("KDTUTOR_PROGRESS", str(file))
    assert only(doctor._points).grade == "ok"
    file.write_text("{")
    assert only(doctor._points).grade == "warning" and str(file) in str(only(doctor._points))


def test_little_room(monkeypatch, tmp_path):
    usage = namedtuple("usage", "free")
    monkeypatch.setenv("KDTUTOR_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(2**29))
    assert [finding.grade for finding in doctor._room()] == ["warning", "warning"]
    assert all("0.5 GiB" in finding.said for finding in doctor._room())


def test_memory(tmp_path, monkeypatch):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       8000000 kB\nMemAvailable:    1048576 kB\n")
    assert doctor._free_memory(meminfo) == 2**30
    assert doctor._free_memory(tmp_path / "none") == float("inf")
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert doctor._free_in_container(tmp_path) == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert doctor._free_in_container(tmp_path) == float("inf")

    for free, grade in ((3 * 2**30, "ok"), (2**30, "warning"), (float("inf"), "note")):
        monkeypatch.setattr(doctor, "_free_memory", lambda free=free: free)
        monkeypatch.setattr(doctor, "_free_in_container", lambda: float("inf"))
        assert only(doctor._memory).grade == grade
    monkeypatch.setattr(doctor, "_free_in_container", lambda: 2**20)
    assert only(doctor._memory).grade == "warning"


def test_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10_000)
    assert only(doctor._processor).grade == "warning" and "OMP_NUM_THREADS=" in only(doctor._processor).advice


def test_a_gpu_that_does_not_work(monkeypatch):
    """The meta device takes tensors and gives none back."""
    monkeypatch.setattr(settings, "choose_device", lambda chosen: (torch.device("meta"), None))
    finding = only(doctor._gpu)
    assert finding.grade == "problem" and "does not work" in finding.said and "CUDA_VISIBLE_DEVICES" in finding.advice


def test_no_browser_is_no_problem(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert only(doctor._browser).grade == "note"
