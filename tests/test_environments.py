"""Strange places: names with spaces and umlauts, an installation that may only be read, no home folder, no display.

A comparison on a folder of small images goes through data, cache, teacher, students, record and figure in each.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rights import ROOT_KEEPS_ITS_RIGHTS, read_only, without_rights

import kdtutor
from kdtutor.data import shipped

STRANGE = "ein Ördner, 文件夹"


@pytest.fixture(scope="module")
def folder_of_images(tmp_path_factory, toy, toy_test):
    from PIL import Image

    root = tmp_path_factory.mktemp(STRANGE) / "Bilder für mich"
    for split, images in (("train", toy), ("test", toy_test)):
        for i, (pixels, label) in enumerate(zip(images.images, images.labels, strict=True)):
            path = root / split / f"{images.classes[label]} é" / f"{i:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[0].numpy()).save(path)
    return root


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory):
    """kdtutor as a wheel lays it out, in a folder of its own."""
    site = tmp_path_factory.mktemp(STRANGE) / "site packages"
    shutil.copytree(Path(kdtutor.__file__).parent, site / "kdtutor", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("fashion-mnist", "teachers"):
        shutil.copytree(shipped(name), site / "kdtutor" / "shipped" / "data" / name)
    return site


@pytest.fixture
def compare(folder_of_images, tmp_path):
    """A function: `kdtutor compare` in a process to which permissions apply, with changes to its environment."""

    def run(*arguments: str, without: tuple[str, ...] = (), **environment: str) -> str:
        work = tmp_path / STRANGE
        work.mkdir()
        environment = {**os.environ, "KDTUTOR_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path), **environment}
        arguments = arguments or ("--data", str(folder_of_images), "--teacher", "cnn14k", "--subset", "80")
        command = [
            sys.executable, "-m", "kdtutor", "compare", "--methods", "ce", "kd", "--epochs", "1", "--seeds", "1",
            "--batch-size", "16", "--folder", "eine Übung", *arguments,
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=work, env={name: value for name, value in environment.items() if name not in without},
            preexec_fn=without_rights if os.name == "posix" else None,
            capture_output=True, text=True, encoding="utf-8", timeout=300,
        )  # fmt: skip
        if done.returncode == ROOT_KEEPS_ITS_RIGHTS:
            pytest.skip("root keeps its rights here")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
        assert {"table.csv", "curves.png", "ce-seed0", "kd-seed0"} <= set(os.listdir(work / "eine Übung"))
        return done.stdout

    return run


def test_spaces_and_names_of_other_alphabets(compare, tmp_path, folder_of_images):
    out = compare(KDTUTOR_CACHE=str(tmp_path / "mein Vorrat é"), PYTHONUTF8="0")
    assert "taught by cnn14k" in out and f"on {folder_of_images}" in out and str(tmp_path / STRANGE) in out


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of Unix")
def test_an_installation_that_may_only_be_read(compare, site_packages):
    before = sorted(site_packages.rglob("*"))
    with read_only(site_packages):
        compare(
            "--data", "fashion-mnist", "--teacher", "base", "--subset", "100", "--device", "cpu",
            PYTHONPATH=str(site_packages), PYTHONDONTWRITEBYTECODE="",
        )  # fmt: skip
    assert sorted(site_packages.rglob("*")) == before


HOMES = ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "LOCALAPPDATA", "MPLCONFIGDIR")


def test_no_home_folder(compare, tmp_path):
    compare("--data", "fashion-mnist", "--teacher", "base", "--subset", "100", without=(*HOMES, "KDTUTOR_CACHE"))


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of Unix")
def test_a_home_folder_that_may_only_be_read(compare, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    with read_only(home):
        compare(
            "--data", "fashion-mnist", "--teacher", "base", "--subset", "100",
            without=(*HOMES[1:], "KDTUTOR_CACHE"), HOME=str(home),
        )  # fmt: skip
    assert list(home.iterdir()) == []


def test_no_display(compare, tmp_path):
    """Figures are drawn without pyplot, which alone looks for a display: here it cannot be imported."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['matplotlib.pyplot'] = None")
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    compare(without=("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND"), PYTHONPATH=paths)
