"""What a probe hands to a loss: random batches of many sizes, drawn the same way each time."""

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """The sizes of one probe, named as in the papers. The factor of a loss is fitted as a product of their powers."""

    B: int = 8  # samples
    C: int = 10  # classes
    T: float = 4.0  # temperature
    D_s: int = 12  # width of the student's features
    D_t: int = 20  # width of the teacher's
    K: int = 6  # landmarks
    maps: bool = False  # features come as (B, channels, 3, 2) maps instead of (B, D)


@dataclass(frozen=True)
class Inputs:
    """One batch as a loss may see it. `student` and `teacher` are logits (B, C) or features (B, ...)."""

    student: Tensor
    teacher: Tensor
    labels: Tensor  # (B,)
    permuted_labels: Tensor  # (B,), mixup's partners
    lam: float
    temperature: float
    num_classes: int
    student_landmarks: Tensor | None = None  # (K, D_s)
    teacher_landmarks: Tensor | None = None  # (K, D_t)

    @property
    def student_probabilities(self) -> Tensor:
        return (self.student / self.temperature).softmax(-1)

    @property
    def teacher_probabilities(self) -> Tensor:
        return (self.teacher / self.temperature).softmax(-1)

    @property
    def student_log_probabilities(self) -> Tensor:
        return (self.student / self.temperature).log_softmax(-1)

    @property
    def teacher_log_probabilities(self) -> Tensor:
        return (self.teacher / self.temperature).log_softmax(-1)

    def changed(self, **values) -> "Inputs":
        return replace(self, **values)

    def map_tensors(self, change) -> "Inputs":
        """A copy in which `change` was applied to every floating-point tensor."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return self.changed(
            **{name: change(x) for name, x in tensors.items() if isinstance(x, Tensor) and x.is_floating_point()}
        )


ROLES = (
    *(field.name for field in fields(Inputs)),
    *(name for name, value in vars(Inputs).items() if isinstance(value, property)),
)


def draw(space: str, sizes: Sizes, seed: int, dtype: torch.dtype = torch.float64) -> Inputs:
    """A random batch of the given space: "logits", "features" or "kernel" (features with landmarks)."""
    g = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64)  # noqa: E731
    labels = torch.randint(sizes.C, (sizes.B,), generator=g)
    landmarks = {}
    if space == "logits":
        # Alike but not equal, the teacher surer and mostly right: as in training.
        student = 2 * normal(sizes.B, sizes.C)
        teacher = 0.5 * student + 2.5 * normal(sizes.B, sizes.C) + 3 * torch.nn.functional.one_hot(labels, sizes.C)
    else:
        # Features lean to one side, as after a ReLU, so that relations have both signs but are no mere noise.
        common = normal(sizes.B, 3)
        student = common @ normal(3, sizes.D_s) / math.sqrt(3) + normal(sizes.B, sizes.D_s) + 0.5
        teacher = common @ normal(3, sizes.D_t) / math.sqrt(3) + normal(sizes.B, sizes.D_t) + 0.5
        # Samples of different length, so that entries are far enough apart to tell smooth L1 from a square.
        student, teacher = (0.5 * x * (0.7 * normal(sizes.B, 1)).exp() for x in (student, teacher))
        if space == "kernel":
            landmarks = {
                "student_landmarks": (0.3 + normal(sizes.K, sizes.D_s)).to(dtype),
                "teacher_landmarks": (0.3 + normal(sizes.K, sizes.D_t)).to(dtype),
            }
        elif sizes.maps:
            student, teacher = (
                x[:, :, None, None] + 0.5 * normal(sizes.B, x.shape[1], 3, 2) for x in (student, teacher)
            )
    return Inputs(
        student=student.to(dtype),
        teacher=teacher.to(dtype),
        labels=labels,
        permuted_labels=labels[torch.randperm(sizes.B, generator=g)],
        lam=0.3 + 0.05 * (seed % 7),
        temperature=sizes.T,
        num_classes=sizes.C,
        **landmarks,
    )
