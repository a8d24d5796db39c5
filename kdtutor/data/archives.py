"""Unpacking archives: a folder has its name only when it is complete."""

import gzip
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from .images import DataError
from .places import cache_folder


@dataclass(frozen=True)
class Source:
    archive: str  # the published file
    folder: str  # what people call the folder that it unpacks to
    marker: str  # something that lies in that folder
    page: str  # where to get the archive


MOST_BYTES = 4 * 2**30  # several times what the largest of these archives unpacks to


def unpack(archive: Path, source: Source) -> Path:
    """Unpack an archive into the cache, once; its size and date are part of the folder's name."""
    about = archive.stat()
    folder = cache_folder() / f"{source.folder}-{about.st_size}-{about.st_mtime_ns}"
    advice = f"get {source.archive} again from {source.page}"

    def fill(part: Path) -> None:
        try:
            (_unpack_zip if source.archive.endswith(".zip") else _unpack_tar)(archive, part)
        except DataError:
            raise
        except Exception as error:  # damage shows as many kinds, of which only the disk's own have a number
            if isinstance(error, OSError) and error.errno is not None:
                raise DataError(f"cannot unpack {archive} into {cache_folder()}: {error}; nothing was kept") from error
            raise DataError(f"{archive} is truncated or damaged ({error}); {advice}") from error
        if not any((part / inner / source.marker).exists() for inner in ("", source.folder)):
            raise DataError(
                f"{archive} holds no {source.marker}, so it is not what {source.archive} should be; {advice}"
            )

    build_folder(folder, fill)
    return folder if (folder / source.marker).exists() else folder / source.folder


def build_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """`folder`, filled by `fill` under another name and then renamed; as it is, if it exists."""
    if folder.exists():
        return folder
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".part", dir=folder.parent))
    try:
        fill(part)
        try:
            os.rename(part, folder)
        except OSError:
            if not folder.exists():  # else another process was faster
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _unpack_tar(archive: Path, folder: Path) -> None:
    with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        size = 0
        for member in tar:
            size += member.size
            _check_member(archive, member.name, size, is_plain=member.isreg() or member.isdir())
            tar.extract(member, folder, filter="data")
        # The checksum stands at the very end, where tar itself does not read.
        while block := stream.read(2**20):
            size += len(block)
            _check_member(archive, "its end", size, is_plain=True)


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        size = 0
        for member in packed.infolist():
            size += member.file_size
            mode = stat.S_IFMT(member.external_attr >> 16)
            _check_member(archive, member.filename, size, is_plain=mode in (0, stat.S_IFREG, stat.S_IFDIR))
            packed.extract(member, folder)


def _check_member(archive: Path, name: str, size: int, is_plain: bool) -> None:
    """Refuse what could write outside the folder, follow a link or fill the disk."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive or not is_plain:
        raise DataError(f"{archive} holds {name!r}, which is outside its folder, a link or a device; it is not trusted")
    if size > MOST_BYTES:
        raise DataError(f"{archive} unpacks to more than {MOST_BYTES / 2**30:.0f} GiB, at {name!r}; it is not trusted")
