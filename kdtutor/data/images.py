"""A data set is uint8 tensors on one device, checked once, where they enter."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..losses._checks import check_count


class DataError(ValueError):
    """Data that cannot be used as it is; the message says which, and what to do."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and what is known of them, all on one device.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64, -1 where an image has no label; or None where no image has one.
        classes: the name of each class; empty if nothing is known of them.
        mean, std: one float a channel, for images in [0, 1].
        name: what error messages and records call it.

    Raises:
        DataError: a shape, dtype, device or label that does not fit the rest.
    """

    images: Tensor
    labels: Tensor | None
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str

    def __post_init__(self):
        check_images(self.images, self.name)
        if self.labels is not None:
            _check_labels(self.labels, self)
        channels = self.images.shape[1]
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise DataError(
                    f"{field} of {self.name} has {len(values)} values, but the images have {channels} channels"
                )
        if not all(value > 0 for value in self.std):
            raise DataError(f"std of {self.name} is {self.std}; every channel's must be greater than 0")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to(self, device: str | torch.device) -> "ImageSet":
        images = self.images.to(device)
        if images is self.images:
            return self
        return replace(self, images=images, labels=None if self.labels is None else self.labels.to(device))

    def take(self, indices: Tensor | Sequence[int]) -> "ImageSet":
        """The images at `indices`, (K,) whole numbers in [0, N), in that order."""
        indices = self._indices("indices", indices)
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, images=self.images[indices], labels=labels)

    def subset(self, count: int, seed: int = 0) -> "ImageSet":
        """`count` images, equally many of each class up to rounding, or all of a class that has fewer.

        Images without label count as one more class. The order of the images is kept. With the same
        seed a smaller subset lies within a larger one.
        """
        check_count("count", count)
        if count > len(self):
            raise DataError(f"count is {count}, but {self.name} has {len(self)} images")
        labels = torch.zeros(len(self), dtype=torch.int64) if self.labels is None else self.labels.cpu() + 1
        groups = int(labels.unique().numel())
        if count < groups:
            raise DataError(f"count is {count}, but {self.name} has {groups} classes; take at least one image of each")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        # Deal in rounds, one image of every class in each: an image's round is its rank within its class.
        shuffled = labels[order]
        by_class = shuffled.argsort(stable=True)
        sizes = shuffled.bincount()
        first = sizes.cumsum(0) - sizes
        rounds = torch.empty_like(order)
        rounds[by_class] = torch.arange(len(self)) - first[shuffled[by_class]]
        dealt = order[rounds.argsort(stable=True)]
        return self.take(dealt[:count].sort().values)

    def without_labels(self, keep: Tensor | Sequence[int] | None = None) -> "ImageSet":
        """The same images with the labels of `keep` alone, (K,) whole numbers in [0, N); None: without any."""
        if keep is None:
            return replace(self, labels=None)
        if self.labels is None:
            raise DataError(f"keep is given, but {self.name} has no labels to keep")
        keep = self._indices("keep", keep)
        labels = torch.full_like(self.labels, -1)
        labels[keep] = self.labels[keep]
        return replace(self, labels=labels)

    def fingerprint(self) -> str:
        """sha256 over the images and their shape, as hex digits: what remembered teacher answers are tied to."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(self.images.cpu().contiguous().numpy())
        return digest.hexdigest()

    def _indices(self, argument: str, indices: Tensor | Sequence[int]) -> Tensor:
        indices = torch.as_tensor(indices, device=self.images.device)
        if indices.dim() != 1 or indices.dtype in (torch.bool, torch.uint8) or indices.is_floating_point():
            got = f"shape {tuple(indices.shape)} and dtype {indices.dtype}"
            raise DataError(
                f"{argument} has {got}, wanted one dimension of whole numbers; of a mask, mask.nonzero()[:, 0]"
            )
        if len(indices) == 0:
            raise DataError(f"{argument} is empty; {self.name} must keep at least one")
        if indices.min() < 0 or indices.max() >= len(self):
            got = f"{argument} goes from {int(indices.min())} to {int(indices.max())}"
            raise DataError(f"{got}, but {self.name} has images 0 to {len(self) - 1}")
        return indices


@dataclass(frozen=True, eq=False)
class Splits:
    """Training and test images of the same classes and shape. `test` is None where `from_dataset` got none."""

    train: ImageSet
    test: ImageSet | None
    name: str

    def __post_init__(self):
        if self.test is None:
            return
        train, test = tuple(self.train.images.shape[1:]), tuple(self.test.images.shape[1:])
        if train != test:
            raise DataError(f"images of {self.name} differ: {train} in train, {test} in test; they must have one shape")
        if self.train.classes != self.test.classes:
            raise DataError(
                f"classes of {self.name} differ: {self.train.classes} in train, {self.test.classes} in test"
            )


def check_images(images: Tensor, name: str) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise DataError(f"images of {name} are {got}, wanted a uint8 tensor with values from 0 to 255")
    if images.dim() != 4 or images.numel() == 0:
        raise DataError(f"images of {name} have shape {tuple(images.shape)}, wanted (N, C, H, W) with none of them 0")


def _check_labels(labels: Tensor, data: ImageSet) -> None:
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise DataError(f"labels of {data.name} are {got}, wanted an int64 tensor; call labels.long()")
    if labels.shape != data.images.shape[:1]:
        raise DataError(f"labels of {data.name} have shape {tuple(labels.shape)}, wanted ({len(data)},): one an image")
    if labels.device != data.images.device:
        raise DataError(f"labels of {data.name} are on {labels.device}, images on {data.images.device}; move one")
    low, high = int(labels.min()), int(labels.max())
    if low < -1 or high >= data.num_classes:
        raise DataError(
            f"labels of {data.name} go from {low} to {high}, wanted 0 to {data.num_classes - 1} for {data.num_classes} "
            "classes, or -1 for an image without label"
        )
