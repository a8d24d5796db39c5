"""Reading images from files, or from a data set of the reader's own, into tensors."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from .images import DataError, ImageSet, Splits, check_images


def make_splits(name, classes, train, test, normalization=None) -> Splits:
    """Two pairs (images, labels) as Splits, normalised as told or else by the training images' own moments."""
    check_images(train[0], f"{name} train")
    mean, std = normalization or _moments(train[0])
    train = ImageSet(*train, tuple(classes), mean, std, f"{name} train")
    if test is not None:
        test = ImageSet(*test, tuple(classes), mean, std, f"{name} test")
    return Splits(train, test, name)


def _moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel of (N, C, H, W) uint8, in [0, 1], exact: from how often each value occurs."""
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        share = channel.reshape(-1).bincount(minlength=256).double() / channel.numel()
        mean.append(float((share * values).sum()))
        variance = (share * (values - mean[-1]) ** 2).sum()
        std.append(float(variance.sqrt()) or 1.0)  # a constant channel becomes 0, not NaN
    return tuple(mean), tuple(std)


def check_same_classes(name: str, train: Iterable[str], test: Iterable[str]) -> None:
    for has, lacks, missing in (("train", "test", set(train) - set(test)), ("test", "train", set(test) - set(train))):
        if missing:
            shown = ", ".join(map(repr, sorted(missing)[:5])) + (", ..." if len(missing) > 5 else "")
            raise DataError(f"{lacks} of {name} lacks {shown}, which {has} has; both need the same classes")


_IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


def read_image_folder(folder: Path, name: str, normalization=None, tests=("test", "val", "valid")) -> Splits:
    test = next((folder / split for split in tests if (folder / split).is_dir()), None)
    if test is None or not (folder / "train").is_dir():
        lacking = "train" if test else " or ".join(tests)
        raise DataError(f"{folder} has no folder {lacking}; a folder of images has train/<class>/ and test/<class>/")
    classes = [path.name for path in subfolders(folder / "train")]
    check_same_classes(name, classes, [path.name for path in subfolders(test)])
    files = [
        [(path, label) for label, one in enumerate(classes) for path in image_files(split / one)]
        for split in (folder / "train", test)
    ]
    return read_files(name, classes, *files, normalization)


def subfolders(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.glob("[!.]*") if path.is_dir())
    if not found:
        raise DataError(f"{folder} has no class folders; images lie in {folder.name}/<class>/")
    return found


def image_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in _IMAGE_ENDINGS)
    if not files:
        raise DataError(f"class folder {folder} has no images; add some, or remove the class")
    return files


def read_files(name: str, classes: Sequence[str], train: list, test: list, normalization=None) -> Splits:
    """Decode two lists of (path, label)."""
    pairs, grey = [], True
    for files in (train, test):
        images, all_grey = _decode([path for path, _ in files], name)
        pairs.append((images, torch.tensor([label for _, label in files])))
        grey &= all_grey
    if grey:
        pairs = [(images[:, :1].contiguous(), labels) for images, labels in pairs]
    return make_splits(name, classes, *pairs, normalization)


def _decode(paths: list[Path], name: str) -> tuple[Tensor, bool]:
    """(N, 3, H, W) uint8 in the order of the paths, and whether all of them are grey."""
    from PIL import Image
    from tqdm.auto import tqdm

    def pixels(path: Path) -> Tensor:
        try:
            with Image.open(path) as image:
                return _pixels(image, str(path))
        except DataError:
            raise
        except Exception as error:  # Pillow raises many kinds
            raise DataError(f"{path} cannot be read as an image ({error}); replace or remove it") from error

    first = pixels(paths[0])
    images = torch.empty(len(paths), 3, *first.shape[1:], dtype=torch.uint8)

    def read(start: int) -> bool:
        grey = True
        for i, path in enumerate(paths[start : start + 100], start):
            image = pixels(path)
            _check_shape(str(path), image.shape[1:], str(paths[0]), first.shape[1:])
            images[i] = image  # a grey image fills all three channels
            grey &= len(image) == 1
        return grey

    grey = True
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(paths), desc=name, unit=" images", leave=False) as bar,
    ):
        for part in pool.map(read, range(0, len(paths), 100)):
            grey &= part
            bar.update(min(100, len(paths) - bar.n))
    return images, grey


def read_dataset(dataset, argument: str) -> tuple[Tensor, Tensor | None]:
    """All images of a Dataset, (N, C, H, W) uint8, and their labels, (N,) int64 or None."""
    from tqdm.auto import tqdm

    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            f"{argument} is a {type(dataset).__name__}, wanted a torch Dataset with a length and numbered items"
        )
    if len(dataset) == 0:
        raise DataError(f"{argument} is empty; it needs at least one image")
    images, labels = [], []
    for i in tqdm(range(len(dataset)), desc=argument, unit=" images", leave=False):
        item, where = dataset[i], f"{argument}[{i}]"
        if isinstance(item, tuple | list) and len(item) != 2:
            raise DataError(f"{where} has {len(item)} parts, wanted (image, label) or an image alone")
        image, label = item if isinstance(item, tuple | list) else (item, None)
        images.append(_pixels(image, where))
        _check_shape(where, images[-1].shape, f"{argument}[0]", images[0].shape)
        labels.append(None if label is None else _whole_number(label, where))
    if all(label is None for label in labels):
        return torch.stack(images), None
    return torch.stack(images), torch.tensor([-1 if label is None else label for label in labels])


def _whole_number(label, where: str) -> int:
    value = torch.as_tensor(label) if not isinstance(label, str) else torch.empty(0)
    if value.numel() != 1 or value.is_floating_point() or value.is_complex():
        raise DataError(f"the label of {where} is {label!r}, wanted a whole number, or None for an image without label")
    return int(value)


def _pixels(image, where: str) -> Tensor:
    """One image, PIL or tensor, as (C, H, W) uint8."""
    from PIL import Image

    if isinstance(image, Image.Image):
        import numpy as np

        if image.mode[0] in "IF":
            raise DataError(f"{where} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits")
        if image.mode in ("1", "L", "LA"):
            return torch.from_numpy(np.array(image.convert("L")))[None]
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    if not isinstance(image, Tensor) or image.dim() not in (2, 3):
        got = f"a tensor of shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
        raise DataError(f"{where} is {got}, wanted a PIL image or a tensor (C, H, W)")
    image = image[None] if image.dim() == 2 else image
    if image.is_floating_point():
        if not bool(((image >= 0) & (image <= 1)).all()):
            raise DataError(f"{where} has values outside [0, 1] or NaN; give images before normalisation, or as uint8")
        image = (image * 255).round().to(torch.uint8)
    if image.dtype != torch.uint8:
        raise DataError(f"{where} has dtype {image.dtype}, wanted uint8, or float in [0, 1]")
    return image


def _check_shape(where: str, shape, first: str, first_shape) -> None:
    if shape != first_shape:
        raise DataError(f"{where} is {tuple(shape)}, {first} is {tuple(first_shape)}; bring all images to one size")
