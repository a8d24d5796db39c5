"""What a loss does besides its value: invariances, edge inputs, half precision, randomness, side effects."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .inputs import Inputs
from .measure import LEAVES, Measured, gradient_of, measure

Loss = Callable[[Inputs], Tensor]


def transformations(space: str, x: Inputs) -> dict[str, tuple[Inputs, Callable[[Tensor], Tensor]]]:
    """Changes of the inputs that a loss may be blind to, and what each does to the student's gradient."""
    g = torch.Generator().manual_seed(0)
    samples = torch.randperm(len(x.student), generator=g)
    rows = lambda t: None if t is None else t[samples]  # noqa: E731
    changes = {
        "order of the samples": (
            x.changed(
                student=rows(x.student),
                teacher=rows(x.teacher),
                labels=x.labels[samples],
                permuted_labels=x.permuted_labels[samples],
            ),
            rows,
        )
    }
    if space == "logits":
        classes = torch.randperm(x.num_classes, generator=g)
        place = classes.argsort()
        columns = lambda t: t[:, classes]  # noqa: E731
        shift = torch.randn(len(x.student), 1, generator=g).to(x.student.dtype)
        changes["order of the classes"] = (
            x.changed(
                student=columns(x.student),
                teacher=columns(x.teacher),
                labels=place[x.labels],
                permuted_labels=place[x.permuted_labels],
            ),
            columns,
        )
        changes["a constant added to each row of logits"] = (
            x.changed(student=x.student + shift, teacher=x.teacher - 2 * shift),
            lambda t: t,
        )
    else:
        turn_s, turn_t = (_rotation(f.flatten(1).shape[1], g).to(f.dtype) for f in (x.student, x.teacher))
        turned = {
            "student": (x.student.flatten(1) @ turn_s).view_as(x.student),
            "teacher": (x.teacher.flatten(1) @ turn_t).view_as(x.teacher),
        }
        if space == "kernel":
            turned |= {
                "student_landmarks": x.student_landmarks @ turn_s,
                "teacher_landmarks": x.teacher_landmarks @ turn_t,
            }
        changes["a rotation of each network's features"] = (
            x.changed(**turned),
            lambda t: (t.flatten(1) @ turn_s).view_as(t),
        )
        changes["the scale of the teacher's features"] = (
            x.changed(
                teacher=3 * x.teacher, **({} if space != "kernel" else {"teacher_landmarks": 3 * x.teacher_landmarks})
            ),
            lambda t: t,
        )
    return changes


def _rotation(width: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q


def invariances(loss: Loss, space: str, x: Inputs, tolerance: float) -> dict[str, bool]:
    """Which transformations leave the loss's gradient as it was, or turn it along with the student."""
    before = gradient_of(loss, x).view_as(x.student)
    kept = {}
    for name, (changed, turn) in transformations(space, x).items():
        after = gradient_of(loss, changed).view_as(x.student)
        due = turn(before.to(x.student.dtype)).double()
        kept[name] = bool((after - due).norm() <= tolerance * due.norm() + 1e-12)
    return kept


def at_equality(loss: Loss, x: Inputs) -> Measured:
    """The loss where student and teacher agree."""
    same = {"teacher": x.student}
    if x.student_landmarks is not None:
        same["teacher_landmarks"] = x.student_landmarks
    return measure(loss, x.changed(**same))


def is_deterministic(loss: Loss, x: Inputs) -> bool:
    first, second = measure(loss, x), measure(loss, x)
    same_value = first.value == second.value or (first.value != first.value and second.value != second.value)
    return same_value and all(_equal(first.gradients[name], second.gradients[name]) for name in first.gradients)


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return torch.equal(a.nan_to_num(), b.nan_to_num())


def changed_inputs(loss: Loss, x: Inputs) -> list[str]:
    """Which of its inputs a loss writes to."""
    own = x.map_tensors(Tensor.clone).changed(labels=x.labels.clone(), permuted_labels=x.permuted_labels.clone())
    with torch.no_grad():
        loss(own)
    names = (*LEAVES, "labels", "permuted_labels")
    pairs = [(name, getattr(own, name), getattr(x, name)) for name in names]
    return [name for name, after, before in pairs if before is not None and not torch.equal(after, before)]


def edge_inputs(space: str, x: Inputs) -> Iterator[tuple[str, Inputs]]:
    """Inputs that occur in practice and divide by zero, overflow or leave nothing to compare."""
    one = (
        x.map_tensors(lambda t: t[:1]) if space != "kernel" else x.changed(student=x.student[:1], teacher=x.teacher[:1])
    )
    yield "a batch of one", one.changed(labels=x.labels[:1], permuted_labels=x.permuted_labels[:1])
    yield (
        "equal samples",
        x.changed(student=x.student[:1].expand_as(x.student), teacher=x.teacher[:1].expand_as(x.teacher)),
    )
    if space == "logits":
        yield "constant logits", x.changed(student=0 * x.student, teacher=0 * x.teacher)
        yield "logits of a thousand", x.map_tensors(lambda t: 500 * t)
    else:
        dead = torch.ones(len(x.student), dtype=torch.bool)
        dead[0] = False
        mask = lambda t: t * dead.view(-1, *[1] * (t.dim() - 1))  # noqa: E731
        yield "a dead sample", x.changed(student=mask(x.student), teacher=mask(x.teacher))
        yield "dead features", x.changed(student=0 * x.student, teacher=0 * x.teacher)
        yield "features of a thousand", x.changed(student=1000 * x.student, teacher=1000 * x.teacher)


def edge_troubles(loss: Loss, space: str, x: Inputs) -> tuple[list[str], list[str]]:
    """Edge inputs at which value or gradient is not finite, and those that the loss refuses with an error."""
    broken, refused = [], []
    for name, edge in edge_inputs(space, x.map_tensors(Tensor.float)):
        try:
            found = measure(loss, edge)
        except Exception:  # whatever a stranger's loss raises
            refused.append(name)
            continue
        if not _finite(found):
            broken.append(name)
    return broken, refused


def half_precision(loss: Loss, x: Inputs) -> dict[str, bool | None]:
    """Under autocast, as in mixed-precision training: finite and near the float64 answer? None: cannot run."""
    due = gradient_of(loss, x)
    kept: dict[str, bool | None] = {}
    for dtype in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        low = x.map_tensors(lambda t, dtype=dtype: t.to(dtype))
        try:
            with torch.autocast("cpu", dtype=dtype):
                found = measure(loss, low)
        except Exception:
            kept[name] = None
            continue
        near = found.gradient is None or (found.gradient - due).norm() <= 0.25 * due.norm() + 1e-6
        kept[name] = _finite(found) and bool(near)
    return kept


def _finite(found: Measured) -> bool:
    """The value and the student's gradient; what reaches the others is not used."""
    return math.isfinite(found.value) and (found.gradient is None or bool(torch.isfinite(found.gradient).all()))
