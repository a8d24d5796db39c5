"""Folders that may only be read, for root too. Shared by tests; imports nothing of kdtutor."""

import contextlib
import os
from pathlib import Path

ROOT_KEEPS_ITS_RIGHTS = 99  # the exit status of a child that could not give them up


@contextlib.contextmanager
def read_only(folder: Path):
    """Nobody may write to a folder and what is in it, apart from root."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    for path, mode in modes.items():
        path.chmod(mode & 0o555)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def without_rights() -> None:
    """For a new process, before it starts: if it is root's, permissions hold for it as for everybody."""
    if os.geteuid() == 0:
        import ctypes

        drop, write_everywhere, read_everywhere = 24, 1, 2  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        for right in (write_everywhere, read_everywhere):
            if ctypes.CDLL(None).prctl(drop, right, 0, 0, 0):
                os._exit(ROOT_KEEPS_ITS_RIGHTS)
