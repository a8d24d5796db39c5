"""What audit_setup looks at: two networks, some batches, and what the networks answer to them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Setup:
    """Everything that was handed in, and what both networks answer in eval mode to the batches looked at."""

    teacher: nn.Module
    student: nn.Module
    method: str | Callable
    optimizer: torch.optim.Optimizer | None
    batches: list[tuple[Tensor, Tensor | None, Tensor, Tensor]]  # images, labels, index, view
    images: Tensor
    labels: Tensor | None
    index: Tensor
    view: Tensor
    teacher_logits: Tensor
    student_logits: Tensor


def read_batch(batch) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    if isinstance(batch, dict):
        parts = [batch.get(name) for name in ("images", "labels", "index", "view")]
    elif isinstance(batch, tuple | list):
        parts = [*batch[:4], None, None, None, None][:4]
    elif isinstance(batch, Tensor):
        parts = [batch, None, None, None]
    else:
        parts = [getattr(batch, name, None) for name in ("images", "labels", "index", "view")]
    if not isinstance(parts[0], Tensor):
        raise ValueError(
            f"loader gave a {type(batch).__name__} without images, wanted (images, labels[, index[, view]])"
        )
    return tuple(parts)


def with_index(batches: list) -> list:
    done, first = [], 0
    for images, labels, index, view in batches:
        index = torch.arange(first, first + len(images)) if index is None else index.cpu()
        view = torch.zeros(len(images), dtype=torch.int64) if view is None else view.cpu()
        done.append((images, labels, index, view))
        first += len(images)
    return done


def logits_of(output, who: str) -> Tensor:
    """The (B, C) logits in whatever a network returns."""
    if isinstance(output, dict):
        output = output.get("logits", next(iter(output.values()), None))
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, tuple | list):
        output = next((part for part in output if isinstance(part, Tensor) and part.dim() == 2), None)
    if not isinstance(output, Tensor) or output.dim() != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"{who} returned {shape}, wanted logits (batch, classes)")
    return output


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
