"""Run by test_distributed.py, alone or under torchrun: write what one step under each method does to a network."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from kdtutor import distributed, methods
from kdtutor.memory import LiveTeacher
from kdtutor.methods import METHODS, Batch
from kdtutor.models import tap

TAPS = {"feature_map": "1", "embedding": "4"}
BATCH = 16


def network(width: int) -> nn.Module:
    """GroupNorm, since BatchNorm's statistics are each rank's own."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.GroupNorm(2, width), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(4 * width, 5),
    ).double()  # fmt: skip


def gradients(spec: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    student, teacher = network(4), network(6)
    images, labels = torch.randn(BATCH, 1, 6, 6, dtype=torch.float64), torch.arange(BATCH) % 5
    method = methods.build(spec)
    tapped = distributed.parallel(tap(student, method.features, TAPS))
    ask = LiveTeacher(tap(teacher, method.features, TAPS))
    for epoch in (1, 2):  # the kernel method has its class centres from the second one on
        method.start_epoch(epoch / 2)
        batch = Batch(images, labels, torch.arange(BATCH), torch.zeros(BATCH, dtype=torch.int64))
        batch = method.prepare(batch, torch.Generator().manual_seed(epoch))
        outputs = distributed.gather(tapped(distributed.own_rows(batch.images)))
        student.zero_grad()
        terms = method(outputs, ask(batch) if method.needs_teacher else None, batch)
        sum(terms.values()).backward()
        method.end_epoch()
    return {f"{spec}/{name}": parameter.grad for name, parameter in student.named_parameters()}


if __name__ == "__main__":
    distributed.start()
    found = {}
    for spec in [*METHODS, "kd + sp"]:
        found |= gradients(spec)
    rank = torch.distributed.get_rank() if distributed.ranks() > 1 else 0
    save_file(found, Path(sys.argv[1]) / f"rank{rank}-of-{distributed.ranks()}.safetensors")
    distributed.stop()
