"""Nothing that kdtutor reads can run code, and nothing that it writes tells a secret."""

import ast
import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch

from kdtutor.records import RecordError, RunFolder, environment
from kdtutor.train import distill

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    [*(ROOT / "kdtutor").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "notebooks").glob("*.py")]
)

FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "torch.load", "numpy.load", "np.load",
    "os.system", "os.popen", "shutil.unpack_archive", "yaml.load", "marshal.loads", "dill.load", "joblib.load",
    "pandas.read_pickle", "pd.read_pickle", "torch.hub.load", "tempfile.mktemp",
}  # fmt: skip


CHECKED = {"packed.extract"}  # zip members, each looked at first: see test_data.py


def unsafe(source: str) -> list[str]:
    """Calls that run what they read, or that follow what an archive says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            words = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in FORBIDDEN or words.get("shell", "False") != "False":
                found.append(f"line {node.lineno}: {name}")
            if name.endswith(("extractall", ".extract")) and "filter" not in words and name not in CHECKED:
                found.append(f"line {node.lineno}: {name} without a filter")
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None)]
            found += [f"line {node.lineno}: import {name}" for name in names if name in ("pickle", "marshal", "dill")]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_unsafe_call(path):
    assert unsafe(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)", "import pickle", "from pickle import loads", "torch.load(path)",
        "torch.load(path, weights_only=True)",
        "subprocess.run(command, shell=True)", "archive.extractall(folder)", "os.system('ls')", "np.load(path)",
    ],
)  # fmt: skip
def test_the_scan_sees(line):
    assert len(unsafe(line)) == 1


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("protocol", ["pickle", "torch"])
@pytest.mark.parametrize("file", ["checkpoint.safetensors", "settings.json"])
def test_a_pickle_in_a_record_never_runs(protocol, file, toy, student, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    distill(student(), toy, "ce", settings=settings, folder=tmp_path / "run", progress=False)
    if protocol == "pickle":
        (tmp_path / "run" / file).write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save({"epochs": Bomb()}, tmp_path / "run" / file)
    before = (tmp_path / "run" / file).read_bytes()
    with pytest.raises(RecordError, match=re.escape(file)):
        distill(student(), toy, "ce", settings=settings, folder=tmp_path / "run", progress=False)
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / "run" / file).read_bytes() == before


def test_records_tell_no_secrets(toy, student, settings, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hunter2-secret")
    distill(student(), toy, "ce", settings=settings, folder=tmp_path / "run", progress=False)
    RunFolder(tmp_path / "other", environment())
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for secret in ("hunter2-secret", str(Path.home()), os.environ.get("HOSTNAME") or "hunter2-secret"):
                assert secret.encode() not in content, (path, secret)
    assert set(environment()) == {"python", "torch", "torchvision", "system", "processor", "threads"}
    json.dumps(environment())
