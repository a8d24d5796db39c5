"""The command line, as a person meets it: in a process of its own."""

import os
import re
import subprocess
import sys

import pytest
import torch

from kdtutor import cli
from kdtutor.methods import METHODS


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def kdtutor(*arguments, cwd, cache, **environment):
    environment = {**os.environ, "KDTUTOR_CACHE": str(cache), "PYTHONUTF8": "0", "COLUMNS": "100", **environment}
    return subprocess.run(
        [sys.executable, "-m", "kdtutor", *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300,
    )  # fmt: skip


def test_help_lists_the_commands(tmp_path, cache):
    done = kdtutor("--help", cwd=tmp_path, cache=cache)
    assert done.returncode == 0
    for command in ("compare", "teacher", "audit", "lab", "progress", "doctor", "host", "study", "report", "reproduce"):
        assert re.search(rf"\b{command}\b", done.stdout)


def test_compare_help_explains_every_option(tmp_path, cache):
    import dataclasses

    from kdtutor.compare import Comparison

    done = kdtutor("compare", "--help", cwd=tmp_path, cache=cache)
    assert done.returncode == 0
    for field in dataclasses.fields(Comparison):
        assert f"--{field.name.replace('_', '-')}" in done.stdout, field.name
    assert all(name in done.stdout for name in METHODS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "ce", "kdd"], "kdtutor: method is 'kdd', which is not known; did you mean 'kd' or"),
        (["--methods", "kd(weight='x')"], "kdtutor: kd: weight must be a number or a function of progress, got 'x'"),
        (["--epochs", "0"], "kdtutor: epochs must be at least 1, got 0"),
        (["--student", "cnn5k"], "kdtutor: student is 'cnn5k', which is not known; did you mean 'cnn4k'"),
        (
            ["--teacher", "resnet20", "--data", "nowhere"],
            "kdtutor: name_or_folder is 'nowhere', neither a known data set",
        ),
    ],
)
def test_an_error_is_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kdtutor", "compare", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code.startswith(message) and "\n" not in stopped.value.code
    assert list(tmp_path.iterdir()) == []


def test_an_error_is_no_traceback_and_no_success(tmp_path, cache):
    done = kdtutor("compare", "--methods", "kdd", cwd=tmp_path, cache=cache)
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("kdtutor: method is 'kdd', which is not known; did you mean 'kd'")


BAD_COMMANDS = [
    "", "comparr", "compare extra", "compare --epochs many", "compare --epochs 0", "compare --epochs 1.5",
    "compare --batch-size 1", "compare --lr 0", "compare --lr nan", "compare --lr fast", "compare --views 0",
    "compare --precision fp8", "compare --device gpu7", "compare --seeds 0", "compare --subset 0",
    "compare --subset 70000", "compare --subset -5", "compare --at-once 0", "compare --methods",
    "compare --methods kd kd", "compare --methods kd(", "compare --methods kd(temprature=2)",
    "compare --methods kd+nothing", "compare --methods __import__('os')",
    "compare --student cnn", "compare --teacher nobody", "compare --momentum 2", "compare --schedule never",
    "compare --folder a-file", "compare --folder a-file/below", "compare --data nowhere", "compare --data cifar10",
    "compare --data cifar10 --teacher cnn4k --root nowhere", "compare --data a-file --teacher cnn4k",
    "compare --data empty --teacher cnn4k", "compare --data no-images --teacher cnn4k",
    "compare --data one-class --teacher cnn4k", "compare --data fashion-mnist --root empty", "teacher nobody",
    "teacher base nobody", "reproduce", "reproduce cifar10", "reproduce cifar100 --pair a:b",
    "reproduce cifar100 --pair resnet32x4", "reproduce cifar100 --root nowhere", "study", "study nothing",
    "study mixup --folder a-file", "report --folder a-file", "report --folder nowhere", "audit", "audit nowhere:loss",
    "audit json", "audit json:nothing", "audit kdtutor.losses:kd_loss --kind nothing",
    "audit kdtutor.losses:kd_loss --temperature x", "lab --folder a-file", "lab --port x", "progress 99",
    "progress one", "progress 00 01", "host not-a-repository", "host a/b/c", "host a/b --folder nowhere",
    "doctor --loud",
]  # fmt: skip


@pytest.mark.parametrize("command", BAD_COMMANDS)
def test_no_command_ends_in_a_traceback(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "a-file").write_text("x")
    (tmp_path / "empty").mkdir()
    for folder in ("no-images/train/a", "no-images/test/a", "one-class/train/a"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "0.png").write_text("not an image")
    before = sorted(tmp_path.rglob("*"))
    for module in ("compare", "teachers"):
        monkeypatch.setattr(f"kdtutor.{module}.distill", lambda *_, **__: pytest.fail("it trains"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kdtutor", *command.split()])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr()
    if isinstance(stopped.value.code, str):
        assert re.fullmatch(r"kdtutor: .{15,}", stopped.value.code), stopped.value.code
    else:  # what tyro refuses, and what the audit finds
        assert stopped.value.code in (1, 2) and len(said.out + said.err) > 30
    assert "Traceback" not in said.out + said.err
    assert (tmp_path / "a-file").read_text() == "x" and set(before) <= set(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("not enough memory"), OSError(28, "No space")]
)
def test_what_only_happens_while_it_runs_is_one_line(monkeypatch, error):
    def failing(*args, **options):
        raise error

    monkeypatch.setattr(cli, "run_comparison", failing)
    monkeypatch.setattr(sys, "argv", ["kdtutor", "compare"])
    with pytest.raises(SystemExit, match=re.escape(f"kdtutor: {error}")):
        cli.main()


def test_ctrl_c_is_one_line(monkeypatch):
    def stopping(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_comparison", stopping)
    monkeypatch.setattr(sys, "argv", ["kdtutor", "compare"])
    with pytest.raises(SystemExit, match="kdtutor: stopped; the same command goes on from the last whole epoch"):
        cli.main()


def test_an_unknown_option_is_an_error(tmp_path, cache):
    done = kdtutor("compare", "--epoch", "3", cwd=tmp_path, cache=cache)
    assert done.returncode != 0 and "--epochs" in done.stderr and "Traceback" not in done.stderr


def test_a_small_comparison_on_real_images(tmp_path, cache):
    """Two methods, one epoch, 200 images of Fashion-MNIST, in a folder with a space and an umlaut in its name."""
    arguments = ["compare", "--methods", "ce", "kd", "--subset", "200", "--epochs", "1", "--seeds", "2"]
    arguments += ["--batch-size", "50", "--folder", "my rüns", "--device", "cpu"]
    if not _has_base():
        arguments += ["--teacher", "cnn4k", "--teacher-epochs", "1"]
    done = kdtutor(*arguments, cwd=tmp_path, cache=cache)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    assert "200 training images, 1 epochs, 2 seeds" in done.stdout
    for method in ("ce", "kd"):
        assert re.search(rf"(?m)^{method} +exact +\d+\.\d\d ± \d+\.\d\d", done.stdout)
    assert str(tmp_path / "my rüns") in done.stdout
    assert (tmp_path / "my rüns" / "table.csv").exists() and (tmp_path / "my rüns" / "curves.png").exists()


def _has_base() -> bool:
    from kdtutor.data import DataError
    from kdtutor.teachers import manifest

    try:
        return "base" in manifest()
    except DataError:
        return False
