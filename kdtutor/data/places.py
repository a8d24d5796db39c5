"""Where data lies: what comes with kdtutor, and what was unpacked or downloaded."""

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from .images import DataError


def shipped(relative: str) -> Path:
    """Where something that comes with kdtutor lies, such as "fashion-mnist" in data/, or "notebooks".

    Raises:
        DataError: it is not there.
    """
    package = Path(__file__).resolve().parent.parent
    home = package / "shipped" if (package / "shipped").is_dir() else package.parent  # a wheel, or a checkout
    for path in (home / "data" / relative, home / relative):
        if path.exists():
            return path
    raise DataError(f"{relative} is missing from {home}; install kdtutor again, or restore the checkout's data folder")


def cache_folder() -> Path:
    """Where unpacked data is kept: KDTUTOR_CACHE, else the user's cache folder, else the temporary one.

    Raises:
        DataError: KDTUTOR_CACHE names a folder that cannot be written to, or none of the others can.
    """
    chosen = os.environ.get("KDTUTOR_CACHE")
    if chosen:
        folders = [Path(chosen).expanduser()]
    else:
        account = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
        folders = [Path(tempfile.gettempdir()) / f"kdtutor-{account}"]
        with suppress(RuntimeError):  # there may be no home folder
            folders.insert(0, _user_cache() / "kdtutor")
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    raise DataError(f"cannot write to {' or '.join(map(str, folders))}; set KDTUTOR_CACHE to a folder with room")


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
