"""audit_setup: the mistakes around a loss. Who is trained, in which mode, on whose answers to which images."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from .report import Check, Report
from .setup_checks import (
    judge_answers,
    judge_batches,
    judge_classes,
    judge_gradient,
    judge_memory,
    judge_normalization,
    judge_optimizer,
    judge_roles,
    judge_teacher_state,
)
from .setup_inputs import (
    Setup,
    batches_of,
    eval_mode,
    is_remembered,
    logits_of,
    read_batch,
    read_memory,
    read_method,
    shared_classes,
    with_index,
)


def audit_setup(
    teacher: nn.Module,
    student: nn.Module,
    loader: Iterable,
    method: str | Callable = "kd",
    *,
    optimizer: torch.optim.Optimizer | None = None,
    remembered: Tensor | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    teacher_classes: Sequence[str] | None = None,
    student_classes: Sequence[str] | None = None,
    batches: int = 8,
) -> Report:
    """Look at a training set-up just before training starts. Nothing is trained; modes and statistics stay as they are.

    Args:
        teacher, student: networks that return logits (B, C), or a tuple, dict or object that holds them. A
            RememberedTeacher stands for its network and its answers.
        loader: batches as tuples (images, labels[, index[, view]]), dicts, or objects with such attributes. Without
            an index, images are taken to come in the order of the data set. Or an ImageSet.
        method: what `distill` takes, such as "kd + sp", which asks the teacher without gradient; or the loss as a
            function or module of student_logits, teacher_logits and, if it wants, labels and T, through which
            gradients are followed.
        optimizer: the one that will step.
        remembered: the teacher's stored answers by index: (N, C), (N, views, C), (views, N, C), or a RememberedTeacher.
        mean, std: of the normalisation that the teacher was trained with, on pixels between 0 and 1.
        teacher_classes, student_classes: the class names in each network's order.
        batches: how many batches to look at.

    Returns:
        A Report, as `audit` gives it.

    Raises:
        ValueError: an empty loader, a method of no known name, or a batch or an answer of a form that is not known.
    """
    loss, names = read_method(method)
    if is_remembered(teacher):
        remembered = teacher if remembered is None else remembered
        teacher = teacher.live.network
    memory = None if remembered is None else read_memory(remembered)
    with torch.random.fork_rng(devices=[]):  # a shuffling loader draws from torch's stream
        seen = [read_batch(batch) for batch in islice(batches_of(loader), batches)]
    if not seen:
        raise ValueError("loader gave no batch; pass one with at least one batch of images")
    seen = with_index(seen)
    with eval_mode(teacher), eval_mode(student), torch.no_grad():
        outputs = [(teacher(images), student(images)) for images, *_ in seen]
    classes = shared_classes(*outputs[0], seen[0][1])
    answers = [(logits_of(t, "teacher", classes), logits_of(s, "student", classes)) for t, s in outputs]
    column = lambda i: None if seen[0][i] is None else torch.cat([batch[i] for batch in seen])  # noqa: E731
    teacher_logits, student_logits = (torch.cat(column).double() for column in zip(*answers, strict=True))
    setup = Setup(
        teacher, student, loss, names, optimizer, seen, *map(column, range(4)), teacher_logits, student_logits
    )
    found, checks = [], []
    for name, findings in {
        "teacher frozen and in eval mode": judge_teacher_state(setup),
        "the optimizer holds the student": judge_optimizer(setup),
        "no gradient reaches the teacher": judge_gradient(setup),
        "answers are logits": judge_answers(setup),
        "same classes, same order": judge_classes(setup, teacher_classes, student_classes),
        "teacher and student in their places": judge_roles(setup),
        "remembered answers in step": [] if memory is None else judge_memory(setup, memory),
        "the teacher's own normalisation": judge_normalization(setup, mean, std),
        "batches of one size": judge_batches(setup, loader),
    }.items():
        findings = list(findings)
        found += findings
        checks.append(Check(name, not any(not finding.note for finding in findings)))
    findings = tuple(finding for finding in found if not finding.note)
    said = "+".join(names) or getattr(loss, "__name__", type(loss).__name__)
    return Report(
        name=f"set-up for {said}",
        kind="setup",
        identity="nothing wrong was found" if not findings else f"{len(findings)} to mend before training",
        findings=findings,
        notes=tuple(finding for finding in found if finding.note),
        checks=tuple(checks),
    )
