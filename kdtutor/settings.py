"""How a student is trained: every number of a run that is not the method's, and what follows from them."""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Generator

from .data import Augmentation
from .losses._checks import check_choice, check_count, check_fraction, check_non_negative, check_positive


@dataclass(frozen=True)
class Settings:
    """How a student is trained. The defaults suit small networks and few epochs; see also CIFAR.

    Attributes:
        epochs: passes over the training images; each leaves out the images that do not fill a batch.
        batch_size: images a step.
        lr: the peak learning rate of "onecycle", the first of "step".
        schedule: "onecycle" (up, then down to 0), or "step" (x .1 after each of `milestones`).
        milestones: fractions of the training.
        crop_padding: random crops after padding by so many pixels; 0 for none.
        flip: mirror every image in every other epoch.
        views: how many augmentations each image has. A teacher is then remembered. None: a new one in
            each epoch, and the teacher is asked live.
        seed: of the order, the augmentation and mixup. The student brings its own weights.
        device: "auto" for CUDA, else Apple's MPS, else the CPU.
        precision: "auto" for bf16 autocast on CUDA and fp32 elsewhere; or "fp32", "bf16".
        compile: run the student through torch.compile.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "onecycle"
    milestones: tuple[float, ...] = (150 / 240, 180 / 240, 210 / 240)
    crop_padding: int = 0
    flip: bool = True
    views: int | None = 2
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False

    def __post_init__(self):
        check_count("epochs", self.epochs)
        check_count("batch_size", self.batch_size, minimum=2)
        check_positive("lr", self.lr)
        check_fraction("momentum", self.momentum)
        check_non_negative("weight_decay", self.weight_decay)
        check_choice("schedule", self.schedule, ("onecycle", "step"))
        for milestone in self.milestones:
            check_fraction("milestones", milestone)
        check_count("crop_padding", self.crop_padding, minimum=0)
        if self.views is not None:
            check_count("views", self.views)
        check_count("seed", self.seed, minimum=0)
        check_choice("precision", self.precision, ("auto", "fp32", "bf16"))

    @property
    def augmentation(self) -> Augmentation:
        # Fixed views are the same for every seed, so that a teacher need be asked about them only once.
        seed = self.seed if self.views is None else 0
        return Augmentation(crop_padding=self.crop_padding, flip=self.flip, seed=seed)


# The recipe of the benchmark that everyone reports, on CIFAR-100.
CIFAR = Settings(epochs=240, batch_size=64, lr=0.05, schedule="step", crop_padding=4, views=None)


def choose_device(settings: Settings) -> tuple[torch.device, torch.dtype | None]:
    """The device, and the dtype for autocast or None for full precision; chosen once."""
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch {torch.__version__} finds no CUDA here; use 'cpu' or 'auto'")
    try:
        device = torch.device(device)
    except RuntimeError:
        raise ValueError(
            f"device is {device!r}, which torch does not know; use 'auto', 'cpu', 'cuda' or 'mps'"
        ) from None
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and device.type == "cuda")
    return device, torch.bfloat16 if bf16 else None


def stream(seed: int, *names) -> Generator:
    """A generator of its own for each use, so that a resumed run draws what an uninterrupted one would."""
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def learning_rate(settings: Settings, epoch: int, step: int, steps: int) -> float:
    """The rate of step `step` of `steps` in an epoch; "onecycle" is torch's OneCycleLR.

    That one rises from lr / 25 to lr over the first quarter of the training and falls to 0 over the
    rest, both along half a cosine.
    """
    if settings.schedule == "step":
        return settings.lr * 0.1 ** sum(epoch >= round(m * settings.epochs) for m in settings.milestones)
    now, last = epoch * steps + step, settings.epochs * steps - 1
    peak = max(0.0, 0.25 * (last + 1) - 1)
    if now < peak:
        return settings.lr * (1 + 24 * _half_cosine(now / peak)) / 25
    return settings.lr * (1 - _half_cosine((now - peak) / max(1.0, last - peak)))


def _half_cosine(progress: float) -> float:
    return (1 - math.cos(math.pi * progress)) / 2
