"""JupyterLab on the course's notebooks."""

import os
import subprocess
import sys
from pathlib import Path

from .data import shipped
from .records import write_atomically

EDITABLE_COPY = Path("kdtutor-notebooks")
COPIED = ("*.ipynb", "solutions/*.ipynb", "*.md", "LICENSE")


def notebooks_folder(folder: Path | None = None) -> Path:
    """Where the notebooks can be opened and saved: the checkout's own, or a copy of the installed ones.

    Notebooks already in the folder are left as they are: they may hold the reader's work.
    """
    source = shipped("notebooks")
    if folder is None:
        installed = source.parent.name == "shipped"
        folder = EDITABLE_COPY if installed else source
    if folder.resolve() != source.resolve():
        for file in sorted(path for kind in COPIED for path in source.glob(kind)):
            copy = folder / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not copy.exists():
                write_atomically(copy, file.read_bytes())
    return folder


def open_lab(folder: Path | None = None, port: int = 8888, browser: bool = True) -> int:
    """Run JupyterLab until it is closed, for this machine alone and with a token. Returns its exit status."""
    command = [
        sys.executable, "-m", "jupyterlab", str(notebooks_folder(folder)),
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
    ]  # fmt: skip
    if not browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    with subprocess.Popen(command) as lab:
        while True:
            try:
                return lab.wait()
            except KeyboardInterrupt:  # JupyterLab was told as well: it asks back, then stops its kernels itself
                continue
