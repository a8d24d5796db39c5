"""Augmentation and normalisation of whole batches: a view of an image is a pure function of (seed, index, view)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses._checks import check_count
from .images import DataError, ImageSet


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image.

    Attributes:
        crop_padding: pad with so many black pixels on each side, then crop the old size anywhere; 0 for none.
        flip: mirror every odd view. An even number of views then shows both sides equally often.
        seed: of the crops, and of which view an image starts with.
    """

    crop_padding: int = 0
    flip: bool = False
    seed: int = 0

    def __post_init__(self):
        check_count("crop_padding", self.crop_padding, minimum=0)
        check_count("seed", self.seed, minimum=0)


def augment(images: Tensor, index: Tensor, view: Tensor, augmentation: Augmentation) -> Tensor:
    """Each image in its view: the same (seed, index, view) gives the same pixels in any batch, on any device.

    Args:
        images: (B, C, H, W) uint8, on the device where the work is to be done.
        index: (B,) int64, which image of the data set each one is.
        view: (B,) int64, which of its augmentations is wanted.

    Returns:
        (B, C, H, W) uint8. Without augmentation the images themselves.
    """
    for argument, value in (("index", index), ("view", view)):
        if value.shape != images.shape[:1] or value.dtype != torch.int64:
            got = f"shape {tuple(value.shape)} and dtype {value.dtype}"
            raise DataError(f"{argument} has {got}, wanted ({len(images)},) and int64: one number an image")
    if augmentation.flip:
        images = torch.where((view % 2 == 1)[:, None, None, None], images.flip(-1), images)
    padding = augmentation.crop_padding
    if padding:
        height, width = images.shape[-2:]
        if padding >= min(height, width):
            raise DataError(
                f"crop_padding is {padding}, but the images are {height} x {width}: a crop could miss them whole"
            )
        offsets = 2 * padding + 1
        bits = _hash(augmentation.seed, index, view)
        top = (((bits >> 32) & 0xFFFFFFFF) * offsets) >> 32  # 32 bits as a fraction of 1, times the number of offsets
        left = ((bits & 0xFFFFFFFF) * offsets) >> 32
        # All crops of an image at once, as a view without a copy: (B, C, offsets, offsets, H, W).
        crops = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        images = crops[torch.arange(len(images), device=images.device), :, top, left]
    return images


def views_of_epoch(index: Tensor, epoch: int, views: int | None, augmentation: Augmentation) -> Tensor:
    """Which view of each image an epoch shows: (B,) int64, of `views` in turn, or always a new one for None.

    Images start at different views, so that every epoch, and every batch, mixes them.
    """
    if views is not None:
        check_count("views", views)
    start = _hash(augmentation.seed, index, torch.full_like(index, -1)) & 0x7FFFFFFF
    return start + epoch if views is None else (start + epoch) % views


def network_input(train: ImageSet, index: Tensor, view: Tensor, augmentation: Augmentation) -> Tensor:
    """What a network is shown of the images `index` in the augmentation `view`: (B, C, H, W), normalised."""
    images = augment(train.images[index], index, view, augmentation)
    return normalize(images, train.mean, train.std).contiguous(memory_format=torch.channels_last)


def normalize(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """(images / 255 - mean) / std, a mean and a std for each channel: (B, C, H, W) uint8 to `dtype`."""
    if len(mean) != images.shape[1] or len(std) != images.shape[1]:
        raise DataError(
            f"mean has {len(mean)} values and std {len(std)}, but the images have {images.shape[1]} channels"
        )
    if images.dtype != torch.uint8:
        raise DataError(f"images have dtype {images.dtype}, wanted uint8: they are divided by 255 here")
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), torch.promote_types(dtype, torch.float32), images.device)
    return (images * scale).add_(shift).to(dtype)


@lru_cache(maxsize=64)
def _scale_and_shift(mean: tuple, std: tuple, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    # Kept, since sending a few numbers to a GPU for every batch would wait for it.
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (mean, std))
    return (1 / (255 * std)).to(device, dtype), (-mean / std).to(device, dtype)


def _hash(seed: int, index: Tensor, view: Tensor) -> Tensor:
    """64 well-mixed bits of each (seed, index, view), as int64 that wraps around.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    """
    bits = index * _INDEX_STEP + view * _VIEW_STEP + _as_int64(seed * _SEED_STEP)
    bits = (bits ^ _shift_right(bits, 30)) * _MIX_1
    bits = (bits ^ _shift_right(bits, 27)) * _MIX_2
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, by: int) -> Tensor:
    return (bits >> by) & ((1 << (64 - by)) - 1)  # without copies of the sign, which int64 would shift in


def _as_int64(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


# Odd, and without pattern in their bits.
_INDEX_STEP, _VIEW_STEP, _SEED_STEP, _MIX_1, _MIX_2 = map(
    _as_int64, (0x9E3779B97F4A7C15, 0xD1342543DE82EF95, 0xDA942042E4DD58B5, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
