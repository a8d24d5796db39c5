"""Loading data sets by name."""

import gzip
import hashlib
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from ..losses._checks import near_names
from ..records import write_atomically
from .archives import Source, build_folder, unpack
from .folders import (
    check_same_classes,
    image_files,
    make_splits,
    read_dataset,
    read_files,
    read_image_folder,
    subfolders,
)
from .images import DataError, Splits
from .places import cache_folder, shipped

# Channel means and stds as each data set's users publish them, for images in [0, 1].
NORMALIZATION: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "cinic10": ((0.47889522, 0.47227842, 0.43047404), (0.24205776, 0.23828046, 0.25874835)),
    "tiny-imagenet": ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
}


def load(name_or_folder: str | Path, root: str | Path | None = None) -> Splits:
    """The training and test images of a data set.

    Args:
        name_or_folder: a name, or a folder of images: train/<class>/*.png (or another format that Pillow
            reads) and test/<class>/*, where test may also be called val or valid. Images must be of one
            size; they are grey if all of them are, else RGB.
            "fashion-mnist" comes with kdtutor.
            "cifar10", "cifar100" are downloaded unless `root` says where they are.
            "cinic10": train and test; to add its valid split to either, merge the folders yourself.
            "tiny-imagenet": train, and val as the test images (those called test have no labels).
        root: for a name, the folder that holds the data set: its archive as published, what the archive
            unpacks to, or (not for tiny-imagenet) a folder of images. Or the archive itself. Archives are
            unpacked into `cache_folder()`, once. None: look in the cache folder.

    Raises:
        DataError: an unknown name; files that are missing, damaged or do not fit together.
    """
    if isinstance(name_or_folder, str) and name_or_folder in _LOADERS:
        return _LOADERS[name_or_folder](None if root is None else Path(root).expanduser())
    if not isinstance(name_or_folder, str | Path):
        raise DataError(
            f"name_or_folder is a {type(name_or_folder).__name__}, wanted a name or a path; see from_dataset"
        )
    folder = Path(name_or_folder).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"name_or_folder is {str(name_or_folder)!r}, neither a known data set nor a folder; "
            f"{near_names(str(name_or_folder), _LOADERS)}; or give a folder with train/<class>/ and test/<class>/"
        )
    if root is not None:
        raise DataError(f"root is {str(root)!r}, but name_or_folder is a folder already; leave root out")
    return read_image_folder(folder, folder.resolve().name)


def from_dataset(train, test=None, classes: Sequence[str] | None = None, name: str = "custom") -> Splits:
    """A torch Dataset of your own as tensors: it is read through once.

    Args:
        train, test: anything with a length whose items are (image, label) or an image alone. An image is a
            PIL image, or a tensor (H, W) or (C, H, W), uint8 or float in [0, 1]; a label is a whole number,
            or None or -1 for an image without. Leave random transforms out: what they give is kept.
        classes: their names; None for `train.classes` or else the labels as text.
        name: for messages and records.

    Raises:
        DataError: an item that is none of these, images of different shape, a class that only one split has.
    """
    train_images, train_labels = read_dataset(train, "train")
    test_images, test_labels = (None, None) if test is None else read_dataset(test, "test")
    if classes is None:
        known = [labels.max() for labels in (train_labels, test_labels) if labels is not None]
        classes = getattr(train, "classes", None) or [str(label) for label in range(int(max(known, default=-1)) + 1)]
    classes = tuple(map(str, classes))
    splits = make_splits(
        name, classes, (train_images, train_labels), None if test is None else (test_images, test_labels)
    )
    labels = (train_labels, test_labels)
    if all(part is not None and bool((part >= 0).all()) for part in labels):
        check_same_classes(name, *({classes[label] for label in part.unique().tolist()} for part in labels))
    return splits


# --- Fashion-MNIST: shipped as published, decompressed once, then read by torchvision ---

_FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def _load_fashion_mnist(root: Path | None) -> Splits:
    from torchvision.datasets import FashionMNIST

    if root is not None:
        raise DataError(f"root is {str(root)!r}, but fashion-mnist comes with kdtutor; leave root out")
    root = cache_folder()
    folder = root / "FashionMNIST" / "raw"  # where torchvision looks
    folder.mkdir(parents=True, exist_ok=True)
    for file, sha256 in _FASHION_MNIST_SHA256.items():
        _decompress(shipped(f"fashion-mnist/{file}.gz"), folder / file, sha256)
    train, test = (FashionMNIST(root, train=part, download=False) for part in (True, False))
    pairs = [(part.data[:, None], part.targets.long()) for part in (train, test)]
    return make_splits("fashion-mnist", train.classes, *pairs, NORMALIZATION["fashion-mnist"])


def _decompress(packed: Path, target: Path, sha256: str) -> None:
    """Make sure that `target` holds what `packed` unpacks to, whatever was or is being done to it."""
    if target.is_file() and _file_sha256(target) == sha256:
        return
    try:
        content = gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{packed} is damaged ({error}); restore it, or install kdtutor again") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(
            f"{packed} does not hold the published data (wrong sha256); restore it, or install kdtutor again"
        )
    try:
        write_atomically(target, content)
    except OSError as error:
        # Windows does not replace a file that another process reads; that one has then just written it.
        if not (target.is_file() and _file_sha256(target) == sha256):
            raise DataError(
                f"cannot write {target}: {error}; make room, or set KDTUTOR_CACHE to another folder"
            ) from error


def _file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- Data sets that lie elsewhere: in an archive, unpacked, or as a folder of images ---


_SOURCES = {
    "cifar10": Source(
        "cifar-10-python.tar.gz", "cifar10", "cifar-10-batches-py", "https://www.cs.toronto.edu/~kriz/cifar.html"
    ),
    "cifar100": Source(
        "cifar-100-python.tar.gz", "cifar100", "cifar-100-python", "https://www.cs.toronto.edu/~kriz/cifar.html"
    ),
    "cinic10": Source("CINIC-10.tar.gz", "CINIC-10", "valid", "https://datashare.ed.ac.uk/handle/10283/3192"),
    "tiny-imagenet": Source(
        "tiny-imagenet-200.zip", "tiny-imagenet-200", "wnids.txt", "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    ),
}


def _locate(name: str, root: Path | None) -> Path | None:
    """The folder in which `name` lies, unpacked for it if need be; None where there is nothing of it."""
    source = _SOURCES[name]
    root = cache_folder() if root is None else root
    for folder in (root, root / source.folder):
        if (folder / source.marker).exists():
            return folder
    archive = root if root.is_file() else root / source.archive
    return unpack(archive, source) if archive.is_file() else None


def _missing(name: str, root: Path | None, reason: str = "") -> DataError:
    source = _SOURCES[name]
    return DataError(
        f"{name} is not in {cache_folder() if root is None else root}{reason}; put {source.archive} there (from "
        f"{source.page}), or pass root= the folder that holds it, packed or unpacked"
    )


def _load_cifar(name: str, root: Path | None) -> Splits:
    from torchvision import datasets

    if root is not None and (root / "train").is_dir():
        return read_image_folder(root, name, NORMALIZATION[name])
    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    folder = _locate(name, root)
    if folder is None and root is not None:
        raise _missing(name, root)
    if folder is None:
        try:
            folder = build_folder(cache_folder() / name, lambda part: _download(kind, part))
        except (OSError, RuntimeError) as error:
            raise _missing(name, root, f" and cannot be downloaded ({error})") from error
    try:
        train, test = (kind(folder, train=part, download=False) for part in (True, False))
    except RuntimeError as error:  # torchvision knows the md5 of each file
        raise DataError(f"{name} in {folder} is incomplete or damaged; remove it and get it again") from error
    pairs = [
        (torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for part in (train, test)
    ]
    return make_splits(name, train.classes, *pairs, NORMALIZATION[name])


def _download(kind, folder: Path) -> None:
    kind(folder, download=True)
    (folder / kind.filename).unlink()  # the archive is not needed any more


def _load_cinic10(root: Path | None) -> Splits:
    folder = _locate("cinic10", root)
    if folder is None and root is not None and (root / "train").is_dir():
        folder = root
    if folder is None:
        raise _missing("cinic10", root)
    return read_image_folder(folder, "cinic10", NORMALIZATION["cinic10"], tests=("test",))


def _load_tiny_imagenet(root: Path | None) -> Splits:
    folder = _locate("tiny-imagenet", root)
    if folder is None:
        raise _missing("tiny-imagenet", root)
    wnids = sorted(_lines(folder / "wnids.txt"))
    check_same_classes("tiny-imagenet", wnids, (path.name for path in subfolders(folder / "train")))
    number = {wnid: label for label, wnid in enumerate(wnids)}
    train = [
        (path, label) for wnid, label in number.items() for path in image_files(folder / "train" / wnid / "images")
    ]
    test = []
    for line in _lines(folder / "val" / "val_annotations.txt"):
        file, wnid = (*line.split("\t"), "")[:2]
        if wnid not in number:
            raise DataError(f"{folder / 'val' / 'val_annotations.txt'} has a line of no known class: {line!r}")
        test.append((folder / "val" / "images" / file, number[wnid]))
    check_same_classes("tiny-imagenet", wnids, {wnids[label] for _, label in test})
    words = dict(line.split("\t", 1) for line in _lines(folder / "words.txt") if "\t" in line)
    classes = [words.get(wnid, wnid).split(",")[0] for wnid in wnids]  # "goldfish, Carassius auratus" -> goldfish
    return read_files("tiny-imagenet", classes, train, test, NORMALIZATION["tiny-imagenet"])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); unpack the archive again") from error


_LOADERS: dict[str, Callable[[Path | None], Splits]] = {
    "fashion-mnist": _load_fashion_mnist,
    "cifar10": partial(_load_cifar, "cifar10"),
    "cifar100": partial(_load_cifar, "cifar100"),
    "cinic10": _load_cinic10,
    "tiny-imagenet": _load_tiny_imagenet,
}
