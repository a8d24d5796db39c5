"""`kdtutor host OWNER/REPO`: the notebooks made ready for Colab and other hosts, by whoever puts them there.

Each notebook gets a badge under its title that opens it in Colab, and its first cell the address from
which pip installs this course, both pinned to a tag. Everything else in the files stays as it is, byte
for byte. Stamping again, for a fork or another tag, replaces the stamp; removing it restores the file.
"""

import json
import re
from pathlib import Path

from . import __version__
from .data import shipped
from .records import write_atomically

OWNER = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,37}[A-Za-z0-9])?"
NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}"
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
COLAB = "https://colab.research.google.com/github/{repository}/blob/{tag}/{path}"
ARCHIVE = "kdtutor @ https://github.com/{repository}/archive/refs/tags/{tag}.zip"

# As a notebook's file has them: each line of a cell is a JSON string on a line of its own.
TITLE_LINES = re.compile(r'(    "# \d\d · [^\n]*\\n",\n    "\\n",\n)')
BADGE_LINES = re.compile(r'    "\[!\[Open in Colab\][^\n]*\\n",\n    "\\n",\n')
HOST_LINE = re.compile(r'    "HOST = \\"[^"\\\n]*\\"')


class HostError(ValueError):
    """A repository or a tag that cannot be one, or a notebook that has no place for a stamp."""


def stamp_all(folder: Path | None, repository: str, tag: str | None = None, remove: bool = False) -> list[Path]:
    """Stamp the notebooks of a folder and of its solutions, all or none; those that changed.

    Args:
        folder: where the notebooks are; None for this checkout's own.
        repository: "OWNER/REPO".
        tag: of the version that is opened and installed; None for "v" and this version's number.
        remove: take the stamp out; the repository may then be empty.

    Raises:
        HostError: names that GitHub would not take, no notebooks, or one without a title and a first cell as ours.
    """
    folder = shipped("notebooks") if folder is None else folder
    paths = sorted([*folder.glob("*.ipynb"), *folder.glob("solutions/*.ipynb")])
    if not paths:
        raise HostError(f"folder {folder} has no notebooks")
    tag = f"v{__version__}" if tag is None else tag
    if not remove:
        check_names(repository, tag)
    changed = {}
    for path in paths:
        before = path.read_bytes()
        ending = b"\r\n" if b"\r\n" in before else b"\n"
        text = before.replace(ending, b"\n").decode()
        place = f"notebooks/{path.relative_to(folder).as_posix()}"
        text = unstamped(text, path) if remove else stamped(text, path, place, repository, tag)
        after = text.encode().replace(b"\n", ending)
        if after != before:
            changed[path] = after
    for path, content in changed.items():
        write_atomically(path, content)
    return list(changed)


def check_names(repository: str, tag: str) -> None:
    """HostError unless these can be a repository and a tag on GitHub."""
    if not re.fullmatch(f"{OWNER}/{NAME}", repository) or repository.endswith(".git"):
        raise HostError(f"repository is {repository!r}, wanted OWNER/REPO, for instance my-university/kdtutor")
    if not re.fullmatch(NAME, tag) or ".." in tag or tag.endswith((".", ".lock")):
        raise HostError(f"tag is {tag!r}, wanted the name of a tag of {repository}, for instance v{__version__}")


def stamped(text: str, path: Path, place: str, repository: str, tag: str) -> str:
    """A notebook's file, `text`, with the stamp of a repository. `place` is where the notebook is in it."""
    link = COLAB.format(repository=repository, tag=tag, path=place)
    badge = f"    {json.dumps(f'{BADGE}({link})' + chr(10))},\n" + r'    "\n",' + "\n"
    text, titles = TITLE_LINES.subn(lambda title: title[1] + badge, unstamped(text, path), count=1)
    if not titles:
        raise HostError(f"{path} has no title such as '# 00 · Start here' with an empty line under it")
    return _with_host(text, path, ARCHIVE.format(repository=repository, tag=tag))


def unstamped(text: str, path: Path) -> str:
    """A notebook's file without badge and address."""
    return _with_host(BADGE_LINES.sub("", text, count=1), path, "")


def _with_host(text: str, path: Path, host: str) -> str:
    text, lines = HOST_LINE.subn(lambda _: rf'    "HOST = \"{host}\"', text, count=1)
    if not lines:
        raise HostError(f'{path} has no line HOST = "" in its first cell')
    return text
