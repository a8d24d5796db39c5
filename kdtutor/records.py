"""A run is a folder: settings.json, epochs.csv, checkpoint.safetensors, summary.json.

Each file is written whole under another name and then renamed, so that a run killed at any moment
leaves either the old file or the new one. Nothing here can run code when it is read.
"""

import csv
import hashlib
import io
import json
import os
import platform
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from . import distributed


class RecordError(ValueError):
    """A record folder that cannot be used as it is."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at every moment there is the old one or the new one, whole.

    Raises:
        OSError: it cannot be written, for instance to a full disk; names the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename2 is None:  # a full disk names no file
            error.filename = str(path)
        raise


def _name(value) -> str:
    """What a record says of a value that JSON has no form for: a function's name, or its text."""
    return getattr(value, "__qualname__", str(value))


def write_json(path: Path, value) -> None:
    """Write plain values atomically; a function is written as its name."""
    write_atomically(path, (json.dumps(value, indent=2, default=_name) + "\n").encode())


def read_json(path: Path) -> dict:
    """What write_json wrote.

    Raises:
        RecordError: a file that is missing or holds no JSON object, by name.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no names and values")
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} cannot be read: {error}; remove it, or choose another folder") from error
    return content


def to_csv(rows: list[dict[str, str]]) -> bytes:
    """Rows of text as a table; where a row lacks a column it is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), "", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows that to_csv wrote.

    The file has no checksum, so that it stays a plain table. Two damages are therefore not seen: a digit or letter
    that became another one, and whole rows that are missing at its end.

    Raises:
        RecordError: a file that to_csv did not write as it is now, or with numbers and words in one column, by name.
    """
    advice = "restore it, or remove it to start over"
    try:
        content = path.read_bytes()
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""), strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise RecordError(f"{path} cannot be read: {error}; {advice}") from error
    if not rows:
        raise RecordError(f"{path} has no row; {advice}")
    lines = enumerate(zip_longest(to_csv(rows).split(b"\n"), content.split(b"\n")), 1)
    for number, (written, found) in lines:
        if written != found:
            raise RecordError(f"{path} is not the table that was written, from line {number} on; {advice}")
    for name in rows[0]:
        values = [row[name] for row in rows if row[name]]
        words = [value for value in values if not _is_number(value)]
        if not name.isidentifier() or not "".join(values).isprintable():
            raise RecordError(f"{path} has a column {name!r} that kdtutor would not write; {advice}")
        if 0 < len(words) < len(values):
            raise RecordError(f"{path} has {words[0]!r} among the numbers of column {name}; {advice}")
    return rows


def _is_number(text: str) -> bool:
    """Whether Python writes a number like this."""
    for kind in (int, float):
        with suppress(ValueError):
            if str(kind(text)) == text:
                return True
    return False


def runs(folder: str | Path) -> "pandas.DataFrame":  # noqa: F821 (imported where it is used)
    """A row for each finished run in a folder, or in folders within it: where it lies, and its summary.

    Raises:
        RecordError: there is no such folder, or a summary is damaged, by name.
    """
    import pandas as pd

    if not Path(folder).is_dir():
        raise RecordError(f"folder is {str(folder)!r}, which is no folder; wanted one that holds runs")
    finished = sorted(Path(folder).rglob("summary.json"))
    return pd.DataFrame([{"run": file.parent.relative_to(folder).as_posix(), **read_json(file)} for file in finished])


class RunFolder:
    """One run's record, written by the first rank alone. `settings` must be the same each time the folder is opened.

    While a run is not finished, only one process may have its folder open: a lock that the system takes back
    when the process ends, however it ends.
    """

    def __init__(self, path: str | Path, settings: dict):
        self.path = Path(path)
        self._lock = FileLock(self.path / ".lock")
        if distributed.is_first():
            self.path.mkdir(parents=True, exist_ok=True)
            if not (self.path / "summary.json").exists():
                self._take()
        settings = json.loads(json.dumps(settings, default=_name))
        if (self.path / "settings.json").exists():
            before = read_json(self.path / "settings.json")
            changed = [name for name in {*before, *settings} if before.get(name) != settings.get(name)]
            if changed:
                name = sorted(changed)[0]
                raise RecordError(
                    f"folder {self.path} holds a run with {name}={before.get(name)!r}, this one has "
                    f"{settings.get(name)!r}; choose another folder, or remove that one"
                )
        elif distributed.is_first():
            write_json(self.path / "settings.json", settings)

    def _take(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RecordError(
                f"folder {self.path} is in use by another process; wait until that is done, or choose another"
            ) from None
        for unfinished in self.path.glob(".*.part"):  # of a process that was killed while it wrote
            unfinished.unlink()

    def release(self) -> None:
        """Let others open the folder."""
        self._lock.release()

    def save(self, epochs: list[dict], tensors: dict[str, Tensor]) -> None:
        """After each epoch: the table for people, then the checkpoint, which holds the table too and alone counts."""
        import pandas as pd
        from safetensors.torch import save

        if not distributed.is_first():
            return
        write_atomically(self.path / "epochs.csv", pd.DataFrame(epochs).to_csv(index=False).encode())
        tensors = _on_host(tensors)
        metadata = {"epochs": json.dumps(epochs)}
        metadata["sha256"] = _digest(metadata["epochs"], tensors)
        write_atomically(self.path / "checkpoint.safetensors", save(tensors, metadata))

    def load(self) -> tuple[list[dict], dict[str, Tensor]]:
        """The epochs that are done and the checkpoint after them; empty if there is none yet."""
        from safetensors import SafetensorError, safe_open

        path = self.path / "checkpoint.safetensors"
        if not path.exists():
            return [], {}
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                epochs = list(json.loads(metadata["epochs"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            if _digest(metadata["epochs"], tensors) != metadata["sha256"]:
                raise ValueError("its content is not what was written")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise RecordError(f"{path} cannot be resumed from: {error}; remove {self.path} to start over") from error
        return epochs, tensors

    def keep_batch(self, batch: dict) -> Path:
        """Write the tensors of a batch for somebody to look at; returns the file."""
        from safetensors.torch import save

        tensors = _on_host({name: value for name, value in batch.items() if isinstance(value, Tensor)})
        path = self.path / "bad-batch.safetensors"
        if distributed.is_first():
            write_atomically(path, save(tensors))
        return path

    def finish(self, summary: dict) -> None:
        """Write the summary of a run that has none yet, and let others open the folder."""
        if distributed.is_first() and not (self.path / "summary.json").exists():
            write_json(self.path / "summary.json", summary)
            self.release()
            (self.path / ".lock").unlink(missing_ok=True)  # a finished run is anybody's to read


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _digest(epochs: str, tensors: dict[str, Tensor]) -> str:
    """sha256 of all that a checkpoint holds: safetensors itself would not notice a flipped bit."""
    digest = hashlib.sha256(epochs.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def environment() -> dict:
    """What a number depends on besides settings: versions and machine."""
    import torchvision

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "system": platform.system(),
        "processor": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
    }
