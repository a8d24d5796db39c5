"""What every loss checks before it computes: all that is known without looking at a value.

Looking at values (is there a NaN? is a label out of range?) would make a GPU wait and would break
a compiled graph, so that happens once, where data enters (`kdtutor.data`), and never here.
"""

import difflib
import math

import torch
from torch import Tensor


def check_float_tensor(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must have a floating-point dtype, got {value.dtype}; call {name}.float() first")


def check_labels(name: str, labels: Tensor, batch: Tensor) -> None:
    """Labels are (B,) integers on the batch's device. Their range is checked where data enters."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(labels).__name__}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name} must hold integer class numbers, got {labels.dtype}; call {name}.long() first")
    if labels.shape != batch.shape[:1]:
        raise ValueError(f"{name} has shape {tuple(labels.shape)}, wanted ({batch.shape[0]},): one label per sample")
    check_same_device(name, labels, "the batch", batch)


def check_same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise ValueError(
            f"{name} is on {value.device}, {other_name} on {other.device}; move one: {name}.to({str(other.device)!r})"
        )


def check_positive(name: str, value: float) -> None:
    _check_number(name, value)
    if not value > 0:
        raise ValueError(f"{name} must be greater than 0, got {value}")


def check_non_negative(name: str, value: float) -> None:
    _check_number(name, value)
    if value < 0:
        raise ValueError(f"{name} must be 0 or greater, got {value}")


def check_fraction(name: str, value: float) -> None:
    _check_number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")


def check_count(name: str, value: int, minimum: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def check_flag(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def _check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a plain number, got {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def near_names(name: str, known) -> str:
    """What to say of an unknown name: the near ones, or all there are."""
    near = difflib.get_close_matches(str(name), list(known), n=4)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose one of {', '.join(known)}"


def check_choice(name: str, value: str, known) -> None:
    if value not in list(known):
        raise ValueError(f"{name} is {value!r}, which is not known; {near_names(value, known)}")


def check_reduction(reduction: str) -> None:
    if reduction == "mean":
        raise ValueError(
            "reduction='mean' would divide by the number of classes as well as by the batch size, "
            "the commonest distillation mistake; use 'batchmean' (mean over samples) or 'none'"
        )
    check_choice("reduction", reduction, ("batchmean", "none"))


def check_logits(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Two (B, C) tensors of logits, returned ready to compute with: at least float32, the teacher detached."""
    for name, logits in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        check_float_tensor(name, logits)
        if logits.dim() != 2:
            raise ValueError(f"{name} has shape {tuple(logits.shape)}, wanted (batch, classes)")
    if student_logits.shape[1] != teacher_logits.shape[1]:
        raise ValueError(
            f"teacher_logits has {teacher_logits.shape[1]} classes, student_logits {student_logits.shape[1]}; "
            "both networks must answer for the same classes in the same order"
        )
    if student_logits.shape[1] < 2:
        raise ValueError(f"student_logits has {student_logits.shape[1]} class; distilling logits needs at least 2")
    return _ready("logits", student_logits, teacher_logits)


def check_features(student_features: Tensor, teacher_features: Tensor) -> tuple[Tensor, Tensor]:
    """Two batches of features, (B, D) or feature maps (B, ...), returned as (B, D_s) and (B, D_t), teacher detached."""
    for name, features in (("student_features", student_features), ("teacher_features", teacher_features)):
        check_float_tensor(name, features)
        if features.dim() < 2:
            raise ValueError(
                f"{name} has shape {tuple(features.shape)}, wanted (batch, ...) with at least 2 dimensions"
            )
        if features.numel() == 0 and features.shape[0] > 0:
            raise ValueError(f"{name} has shape {tuple(features.shape)}: a sample without a single feature")
    student_features, teacher_features = _ready("features", student_features, teacher_features)
    return student_features.flatten(1), teacher_features.flatten(1)


def _ready(what: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f"teacher_{what} has {teacher.shape[0]} samples, student_{what} {student.shape[0]}; "
            "both must come from the same batch"
        )
    if student.shape[0] == 0:
        raise ValueError(f"student_{what} has shape {tuple(student.shape)}: the batch is empty")
    check_same_device(f"teacher_{what}", teacher, f"student_{what}", student)
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(dtype), teacher.detach().to(dtype)


def full_precision(tensor: Tensor):
    """A block in which autocast leaves matrix products in the dtype of their inputs."""
    return torch.autocast(tensor.device.type, enabled=False)


def reduce_samples(per_sample: Tensor, reduction: str) -> Tensor:
    return per_sample if reduction == "none" else per_sample.mean()
