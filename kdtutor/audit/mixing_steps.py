"""Mixup inside a training step: does each answer of the student's meet the teacher's answer to the same image?

What a network was shown is read from the pixels. Which answers meet is read from gradients: the step is
played again, with the same random numbers and one answer of the teacher's changed.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .calling import AuditError
from .mixing import CLASSES, IMAGE, mixing_report
from .report import Finding, Report

SHARE = 0.01  # a clean image with this share of a blend, or less, has none


class _Recorder(nn.Module):
    """A linear network that keeps what it was shown and what it answered. One answer may be changed."""

    def __init__(self, seed: int, changed: int | None = None):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        width = IMAGE[0] * IMAGE[1] * IMAGE[2]
        self.weight = nn.Parameter(torch.randn(width, CLASSES, generator=g) / width**0.5)
        self.changed = changed
        self.seen: list[Tensor] = []
        self.answers: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        number = torch.arange(len(images)) + sum(map(len, self.seen))
        self.seen.append(images.detach().clone())
        logits = images.flatten(1) @ self.weight
        if self.changed is not None:
            logits = torch.where((number == self.changed)[:, None], -3 * logits, logits)
        self.answers.append(logits)
        return logits


@dataclass(frozen=True)
class _Play:
    """One call of the step."""

    loss: object  # whatever it returned
    student: _Recorder
    teacher: _Recorder

    def pulls(self) -> Tensor | None:
        """The loss's gradient at each answer of the student's; None where there is none."""
        answers = [answer for answer in self.student.answers if answer.requires_grad]
        if not answers or not isinstance(self.loss, Tensor) or self.loss.dim() or not self.loss.requires_grad:
            return None
        found = iter(torch.autograd.grad(self.loss, answers, retain_graph=True, materialize_grads=True))
        return torch.cat([next(found) if a.requires_grad else torch.zeros_like(a) for a in self.student.answers])


def audit_mixup_step(step, **settings) -> Report:
    """A function (student, teacher, images, labels) -> loss that mixes inside: do answers to the same image meet?

    Args:
        step: called with two small networks and a random batch, about a hundred times.
        settings: passed on by name.
    """
    name = getattr(step, "__qualname__", type(step).__name__)
    g = torch.Generator().manual_seed(0)
    found: dict[str, Finding] = {}
    for size in (8, 9, 10, 11, 12, 12, 12, 12):
        images = torch.randn(size, *IMAGE, generator=g)
        labels = torch.randint(CLASSES, (size,), generator=g)
        play = _repeatable(name, step, images, labels, settings)
        first = play()
        for finding in (*_judge_views(images, first, play), *_judge_flow(first)):
            found.setdefault(finding.code, finding)
    return mixing_report(name, "mixup_step", "a mixup distillation step, equation (4.3)", list(found.values()))


def _repeatable(name: str, step, images: Tensor, labels: Tensor, settings: dict) -> Callable[..., _Play]:
    """The step as a function of which answer of the teacher's is changed: each call draws the same random numbers."""
    state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 (steps may draw from it)

    def play(changed: int | None = None) -> _Play:
        for restore, own in zip((torch.set_rng_state, np.random.set_state, random.setstate), state, strict=True):
            restore(own)
        student, teacher = _Recorder(1), _Recorder(2, changed)
        try:
            return _Play(step(student, teacher, images.clone(), labels.clone(), **settings), student, teacher)
        except Exception as error:  # whatever a stranger's step raises
            given = f"images {tuple(images.shape)}, labels {tuple(labels.shape)}"
            raise AuditError(f"{name} failed as step(student, teacher, {given}): {error}") from error

    return play


def _judge_views(clean: Tensor, first: _Play, play: Callable[[int], _Play]) -> Iterator[Finding]:
    if not first.student.seen or not first.teacher.seen:
        who = "the teacher" if first.student.seen else "the student"
        yield Finding(
            "network_not_asked",
            "both networks answer",
            f"{who} is never called",
            "one of the networks is not used",
            f"ask {who}",
            "nothing is distilled",
        )
        return
    saw, asked = _shares(clean, first.student.seen), _shares(clean, first.teacher.seen)
    if saw is not None and asked is not None:
        yield from _judge_pairs(saw, asked, _which_meet(first, play))


def _shares(clean: Tensor, seen: list[Tensor]) -> Tensor | None:
    """The share of each clean image in each one shown: (shown, clean). It is unique, for random images are independent.

    None where something else is in them, or where lam lies so near 0 or 1 that it can hardly be seen.
    """
    images, shown = (x.flatten(1).double().T for x in (clean, torch.cat(seen)))
    shares = torch.linalg.lstsq(images, shown).solution
    if (images @ shares - shown).norm() > 1e-3 * shown.norm():
        return None
    hardly = (shares.abs() > 1e-4) & (shares.abs() < 2 * SHARE)
    return None if hardly.any() else shares.T


def _which_meet(first: _Play, play: Callable[[int], _Play]) -> Tensor | None:
    """(student's answers, teacher's answers): does the pull at the one change with the other?

    None where it cannot be told: the step cannot be repeated, or it compares whole batches.
    """
    pulls, again = first.pulls(), play().pulls()
    if pulls is None or again is None or not torch.equal(pulls, again):
        return None
    answers = range(sum(map(len, first.teacher.seen)))
    changes = torch.stack([(play(row).pulls() - pulls).norm(dim=1) for row in answers], dim=1)
    changes = changes / changes.amax(0).clamp(min=1e-6)
    if ((changes > 1e-4) & (changes < 1e-2)).any() or (changes > 1e-2).all():
        return None
    return changes > 1e-2


def _judge_pairs(saw: Tensor, asked: Tensor, meet: Tensor | None) -> Iterator[Finding]:
    """Both networks' shares, and which answers meet; where that cannot be told, answers in the same place."""
    told = meet is not None
    if not told:
        if len(saw) != len(asked):
            return
        meet = torch.eye(len(saw), dtype=torch.bool)
    wanted, answered = saw.abs() > SHARE, (meet.double() @ (asked.abs() > SHARE).double()) > 0
    blended = (wanted[meet.any(1)].sum(1) > 1).any(), ((asked[meet.any(0)].abs() > SHARE).sum(1) > 1).any()
    if not any(blended):
        return  # lam = 1 or the identity: nothing can be compared this time
    same = (wanted == answered).all(1)
    equal = (saw - asked[meet.int().argmax(1)]).abs().amax(1) < 1e-3
    wrong = meet.any(1) & ~(same & (equal | (meet.sum(1) > 1)))
    if not wrong.any():
        return
    if not blended[0]:
        yield Finding(
            "student_sees_clean_images",
            "the student is asked on virtual images",
            "the teacher is shown virtual images, the student the clean ones",
            "the mixed images go to one network alone",
            "ask both networks on the virtual images",
            "the teacher answers about other images",
        )
    elif not blended[1] and not (answered & ~wanted)[wrong].any():
        yield Finding(
            "teacher_sees_clean_images",
            "the teacher is asked on the student's virtual images",
            "the teacher is shown the clean images"
            + (", and its answer to one of them stands for the blend of two" if told else ""),
            "the mixed images go to the student alone"
            if told
            else "right if its two clean answers are then interpolated; wrong if they are compared as they are",
            "ask the teacher on the virtual images, or use interpolated_logits",
            "a share 1 - lam of what the student sees is not in its target" if told else "",
            note=not told,
        )
    elif same[wrong].all():
        yield Finding(
            "different_lam",
            "one virtual batch, shown to both networks",
            "student and teacher see images blended with different lam",
            "lam is drawn once for each network, or swapped with 1 - lam for one of them",
            "mix once, then ask both networks",
            "the teacher answers about other images",
        )
    elif (saw[wrong][:, None] - asked[None]).abs().amax(2).amin(1).max() < 1e-3:
        if told:
            yield Finding(
                "teacher_answers_permuted",
                "the teacher's answer to the virtual image that the student answers to",
                "both networks see the same virtual images, and their answers are compared in another order",
                "the teacher's answers are permuted after it was asked on images that were permuted already",
                "compare row i with row i",
                "the teacher answers about other images: its targets are noise",
            )
    else:
        yield Finding(
            "different_permutations",
            "one virtual batch, or one permutation of images and clean answers",
            "student and teacher blend with different partners",
            "a permutation is drawn twice: once for the student's images, once for the teacher's images or answers",
            "mix once, then ask both networks",
            "the teacher answers about other images: its targets are noise",
        )


def _judge_flow(play: _Play) -> Iterator[Finding]:
    loss = play.loss
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        raise AuditError(f"the step returned {type(loss).__name__}, wanted a scalar torch.Tensor")
    if not loss.requires_grad:
        yield Finding(
            "no_gradient",
            "gradient for the student",
            "none",
            "the graph is cut",
            "do not detach the student",
            "nothing is learnt",
        )
        return
    _, reached = torch.autograd.grad(loss, [play.student.weight, play.teacher.weight], allow_unused=True)
    if reached is not None and reached.any():
        yield Finding(
            "teacher_gets_gradient",
            "gradient for the student alone",
            "a gradient reaches the teacher's weights",
            "the teacher is called outside torch.no_grad()",
            "wrap the teacher's call in torch.no_grad()",
            "time and memory; and the teacher drifts if the optimizer holds its weights",
        )
