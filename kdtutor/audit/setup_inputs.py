"""What audit_setup looks at: two networks, some batches, and what the networks answer to them."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import methods


@dataclass(frozen=True)
class Setup:
    """Everything that was handed in, and what both networks answer in eval mode to the batches looked at."""

    teacher: nn.Module
    student: nn.Module
    loss: Callable | None  # through which gradients are followed; None where a method is asked as in training
    methods: tuple[str, ...]  # the names of the methods
    optimizer: torch.optim.Optimizer | None
    batches: list[tuple[Tensor, Tensor | None, Tensor, Tensor]]  # images, labels, index, view
    images: Tensor
    labels: Tensor | None
    index: Tensor
    view: Tensor
    teacher_logits: Tensor
    student_logits: Tensor


def read_method(method) -> tuple[Callable | None, tuple[str, ...]]:
    """A loss, or the names of the methods in their text, object or class.

    Raises:
        ValueError: text that stands for no method.
    """
    if inspect.isclass(method) and issubclass(method, methods.Method):
        return None, (method.name,)
    if callable(method) and not isinstance(method, methods.Method | methods.Combined):
        return method, ()
    method = methods.build(method)
    return None, tuple(part.name for part in getattr(method, "methods", [method]))


def is_remembered(teacher) -> bool:
    """Is it what `remember_teacher` gave?"""
    return all(hasattr(teacher, name) for name in ("live", "logits", "views"))


def read_memory(remembered) -> Tensor:
    """Answers as (N, views, C), in whichever of the usual forms they are kept."""
    if is_remembered(remembered):
        return remembered.logits.unflatten(0, (remembered.views, -1)).transpose(0, 1)
    if not isinstance(remembered, Tensor) or remembered.dim() not in (2, 3):
        got = tuple(remembered.shape) if isinstance(remembered, Tensor) else type(remembered).__name__
        raise ValueError(
            f"remembered is {got}, wanted a tensor (images, classes), (images, views, classes) or "
            "(views, images, classes), or a RememberedTeacher"
        )
    if remembered.dim() == 2:
        return remembered[:, None]
    return remembered.transpose(0, 1) if len(remembered) < remembered.shape[1] else remembered  # few views, many images


def batches_of(loader: Iterable) -> Iterator:
    """A loader's batches; those of an ImageSet are its images, normalised, in their order."""
    if isinstance(loader, Iterable) or not hasattr(loader, "images"):
        yield from loader
        return
    mean, std = (
        torch.tensor(values, device=loader.images.device)[:, None, None] for values in (loader.mean, loader.std)
    )
    for index in torch.arange(len(loader.images), device=loader.images.device).split(100):
        labels = None if loader.labels is None else loader.labels[index]
        yield (loader.images[index] / 255 - mean) / std, labels, index


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
    if not parts[0].is_floating_point():
        raise ValueError(
            f"loader gave images of {parts[0].dtype}, wanted them as the networks take them: floating point, normalised"
        )
    if parts[1] is not None:
        parts[1] = _class_numbers(parts[1])
    return tuple(parts)


def _class_numbers(labels: Tensor) -> Tensor:
    """(B,) from (B,), (B, 1), or one-hot (B, C)."""
    if labels.dim() == 2:
        labels = labels[:, 0] if labels.shape[1] == 1 else labels.argmax(1)
    return labels.long()


def with_index(batches: list) -> list:
    done, first = [], 0
    for images, labels, index, view in batches:
        index = torch.arange(first, first + len(images)) if index is None else index.cpu()
        view = torch.zeros(len(images), dtype=torch.int64) if view is None else view.cpu()
        done.append((images, labels, index, view))
        first += len(images)
    return done


def logits_of(output, who: str, classes: int | None = None) -> Tensor:
    """The (B, C) logits in whatever a network returns: of several such tensors the one with `classes` columns."""
    found = candidates(output)
    if not found:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"{who} returned {shape}, wanted logits (batch, classes)")
    return next((part for part in found if part.shape[1] == classes), found[0])


def candidates(output) -> list[Tensor]:
    """The (B, ?) tensors that may be logits, the likeliest first."""
    if isinstance(output, dict):
        output = output.get("logits", next(iter(output.values()), None))
    elif hasattr(output, "logits"):
        output = output.logits
    parts = output if isinstance(output, tuple | list) else [output]
    return [part for part in parts if isinstance(part, Tensor) and part.dim() == 2]


def shared_classes(teacher_output, student_output, labels: Tensor | None) -> int | None:
    """How many classes both may be answering for: the smallest common width that has room for the labels."""
    widths = [{part.shape[1] for part in candidates(output)} for output in (teacher_output, student_output)]
    least = 1 if labels is None else int(labels.max()) + 1
    return min((width for width in widths[0] & widths[1] if width >= least), default=None)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
