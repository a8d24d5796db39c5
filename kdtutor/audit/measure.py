"""One call of a loss: its value, and the gradient it sends to each of its inputs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .inputs import Inputs

LEAVES = ("student", "teacher", "student_landmarks", "teacher_landmarks")


@dataclass(frozen=True)
class Measured:
    value: float
    shape: tuple[int, ...]  # of what the loss returned
    gradients: dict[str, Tensor | None]  # flat, float64; None where no gradient flows at all

    @property
    def gradient(self) -> Tensor | None:
        return self.gradients["student"]


def measure(loss: Callable[[Inputs], Tensor], inputs: Inputs) -> Measured:
    """A loss that returns more than one number (reduction="none") is read as the mean of them over the samples."""
    leaves = {name: getattr(inputs, name) for name in LEAVES if getattr(inputs, name) is not None}
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in leaves.items()}
    with torch.enable_grad():
        output = loss(
            inputs.changed(**{name: leaf.clone() for name, leaf in leaves.items()})
        )  # safe from in-place writes
        total = output if output.dim() == 0 else output.sum() / len(output)
        found = [None] * len(leaves)
        if total.requires_grad:
            found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    flat = (None if gradient is None else gradient.detach().double().flatten() for gradient in found)
    return Measured(float(total.detach()), tuple(output.shape), dict(zip(leaves, flat, strict=True)))


def gradient_of(loss: Callable[[Inputs], Tensor], inputs: Inputs) -> Tensor:
    """The gradient with respect to the student, flat; zeros where there is none."""
    gradient = measure(loss, inputs).gradient
    return torch.zeros(inputs.student.numel(), dtype=torch.float64) if gradient is None else gradient
