"""A run in a process of its own, to be killed: python crash_worker.py FOLDER SPEC. Imports nothing of pytest."""

import sys
from pathlib import Path

import torch

from kdtutor import data, models
from kdtutor.settings import Settings
from kdtutor.train import distill

SETTINGS = Settings(epochs=6, batch_size=16, lr=0.05, crop_padding=1, device="cpu")


def toy() -> data.ImageSet:
    g = torch.Generator().manual_seed(3)
    images, labels = torch.randint(0, 256, (96, 1, 8, 8), generator=g), torch.randint(4, (96,), generator=g)
    return data.ImageSet(images.to(torch.uint8), labels, tuple("abcd"), (0.5,), (0.3,), "toy")


def train(folder: Path | None, spec: str):
    """The same student from the same teacher in whichever process."""
    torch.set_num_threads(1)
    student, teacher = models.build("cnn4k", 4, 1, seed=0), models.build("cnn14k", 4, 1, seed=1)
    distill(student, toy(), spec, teacher, SETTINGS, folder=folder, progress=False)
    return student


if __name__ == "__main__":
    train(None, "kd")  # the first steps of a process are slow
    print("go", flush=True)
    train(Path(sys.argv[1]), sys.argv[2])
    print("done", flush=True)
