"""`kdtutor lab`: which folder it opens, and a real server that strangers cannot use."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from kdtutor import lab

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """As from a wheel: the notebooks lie in site-packages, and the reader is somewhere else."""
    source = tmp_path / "site-packages" / "kdtutor" / "shipped" / "notebooks"
    (source / "solutions").mkdir(parents=True)
    for name in ("00_a.ipynb", "01_b.ipynb", "LICENSE", "glossary.md", "refresh.py", "solutions/01_b.ipynb"):
        (source / name).write_text(f"original {name}")
    home = tmp_path / "reader's folder, ü"
    home.mkdir()
    monkeypatch.setattr(lab, "shipped", lambda relative: source)
    monkeypatch.chdir(home)
    return home


def test_a_checkout_opens_its_own_notebooks():
    assert lab.notebooks_folder() == NOTEBOOKS


def test_installed_notebooks_are_copied_beside_the_reader(installed):
    folder = lab.notebooks_folder()
    assert folder.resolve() == installed / "kdtutor-notebooks"
    names = ["00_a.ipynb", "01_b.ipynb", "LICENSE", "glossary.md", "solutions"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert (folder / "solutions" / "01_b.ipynb").read_text() == "original solutions/01_b.ipynb"
    assert (folder / "01_b.ipynb").read_text() == "original 01_b.ipynb"


def test_the_readers_work_is_kept(installed):
    chosen = installed / "mine" / "deeper"
    lab.notebooks_folder(chosen)
    (chosen / "00_a.ipynb").write_text("my answers")
    (chosen / "01_b.ipynb").unlink()
    lab.notebooks_folder(chosen)
    assert (chosen / "00_a.ipynb").read_text() == "my answers"
    assert (chosen / "01_b.ipynb").read_text() == "original 01_b.ipynb"


def test_a_copy_that_is_cut_short_leaves_nothing(installed, monkeypatch):
    def power_cut(*paths):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", power_cut)
    with pytest.raises(OSError, match="no space"):
        lab.notebooks_folder()
    assert list((installed / "kdtutor-notebooks").iterdir()) == []


def test_ctrl_c_is_left_to_jupyterlab(monkeypatch):
    """It asks back, so the first Ctrl-C must not end it, and its own exit status is what counts."""

    class Child:
        waits = 0

        def __init__(self, command):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def wait(self):
            Child.waits += 1
            if Child.waits < 3:
                raise KeyboardInterrupt
            return 7

    monkeypatch.setattr(lab.subprocess, "Popen", Child)
    try:
        status = lab.open_lab()
    except KeyboardInterrupt:
        pytest.fail("Ctrl-C ended kdtutor and left JupyterLab behind")
    assert status == 7
    assert Child.waits == 3


@pytest.mark.skipif(sys.platform == "win32", reason="ends JupyterLab by a signal to its process group")
def test_a_real_server_listens_here_alone_and_asks_for_its_token(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    runtime = tmp_path / "runtime"
    places = {
        "JUPYTER_RUNTIME_DIR": runtime,
        "JUPYTER_CONFIG_DIR": tmp_path / "config",
        "JUPYTER_DATA_DIR": tmp_path / "data",
    }
    program = (
        f"from pathlib import Path; from kdtutor.lab import open_lab; open_lab(Path('mine'), {port}, browser=False)"
    )
    with open(tmp_path / "log.txt", "w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", program], cwd=tmp_path, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True, env={**os.environ, **{name: str(path) for name, path in places.items()}},
        )  # fmt: skip
    try:
        running = _wait_for_server(runtime, server, tmp_path / "log.txt")
        assert running["hostname"] == "127.0.0.1"
        assert running["port"] == port
        assert len(running["token"]) >= 32

        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/contents", timeout=20)
        assert refused.value.code == 403
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/api/contents?token={running['token']}", timeout=20
        ) as answer:
            listed = {entry["name"] for entry in json.load(answer)["content"]}
        assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} <= listed
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait_for_server(runtime: Path, server: subprocess.Popen, log: Path) -> dict:
    """What JupyterLab wrote about itself once it listened."""
    for _ in range(600):
        assert server.poll() is None, log.read_text(encoding="utf-8")
        for path in runtime.glob("jpserver-*.json"):
            try:
                return json.loads(path.read_text(encoding="utf-8"))
            except ValueError:  # still being written
                pass
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start: {log.read_text(encoding='utf-8')}")
