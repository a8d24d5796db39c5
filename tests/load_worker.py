"""Many steps in a process of its own: python load_worker.py FOLDER SPEC STEPS. Prints what it holds a quarter through
the steps and at their end: MiB of memory, open files, threads, and MiB of GPU memory. Imports nothing of pytest."""

import dataclasses
import gc
import os
import sys
from pathlib import Path

import torch
from crash_worker import SETTINGS, toy

from kdtutor import models, train

STEPS_AN_EPOCH = 240  # 960 images in batches of 4


def held() -> list[float]:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    on_gpu = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    return [
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
        on_gpu / 2**20,
    ]


def main(folder: str, spec: str, steps: int) -> None:
    torch.set_num_threads(1)
    settings = dataclasses.replace(SETTINGS, epochs=steps // STEPS_AN_EPOCH, batch_size=4, device="auto")
    save = train.RunFolder.save

    def look(self, epochs, tensors):
        save(self, epochs, tensors)
        if len(epochs) in (settings.epochs // 4, settings.epochs):
            print(*held(), flush=True)

    train.RunFolder.save = look
    student, teacher = models.build("cnn4k", 4, 1, seed=0), models.build("cnn14k", 4, 1, seed=1)
    images = toy().take(torch.arange(960) % 96)
    train.distill(student, images, spec, teacher, settings, test=toy(), folder=folder, progress=False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
