"""A loss that no known one explains: what can still be said about it."""

from collections.abc import Iterator

import torch

from kdtutor import losses

from .gather import Evidence
from .kinds import Kind
from .measure import gradient_of, measure
from .probes import at_equality, invariances
from .report import Finding
from .verdict import effect


def judge_stranger(kind: Kind, seen: Evidence, searched: bool) -> Iterator[Finding]:
    gradients = [probe.measured.gradient for probe in seen.probes]
    if all(gradient is None or not gradient.any() for gradient in gradients):
        yield _without_gradient(kind, seen)
    elif not all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients):
        yield Finding(
            "not_finite",
            expected="a finite gradient",
            measured="NaN or infinity in the gradient of an ordinary random batch",
            cause="a square root or logarithm of 0, or a division by 0, often on the diagonal of a matrix of distances",
            fix="clamp or mask before the root, the logarithm or the division",
            effect="the first step destroys the student",
        )
    elif kind.name == "spearman" and rank_coverage(seen) < 0.1:
        yield _ranks_without_gradient(rank_coverage(seen))
    elif kind.name == "spearman" and _behaves_like_ranks(kind, seen):
        yield Finding(
            "other_soft_rank",
            expected=f"{kind.title}, or another soft rank",
            measured="a rank correlation by another soft rank: 0 at equality, blind to scale and shift",
            cause="a soft rank other than Blondel's, or another strength",
            fix="nothing to mend",
            effect=effect(kind, None, seen.probes),
            note=True,
        )
    else:
        yield _unknown(kind, seen, searched)


def rank_coverage(seen: Evidence) -> float:
    """The share of logits that get any gradient."""
    counts = [
        (0.0 if g is None else float((g.abs() > 1e-6 * g.abs().max().clamp(min=1e-12)).double().mean()))
        for g in (probe.measured.gradient for probe in seen.probes)
    ]
    return sum(counts) / len(counts)


def _without_gradient(kind: Kind, seen: Evidence) -> Finding:
    teacher = [probe.measured.gradients["teacher"] for probe in seen.probes]
    if any(gradient is not None and gradient.any() for gradient in teacher):
        return Finding(
            "networks_swapped",
            expected="gradient for the student",
            measured="all gradient goes to the teacher, none to the student",
            cause="student and teacher are swapped: the loss detaches its other argument",
            fix="student first, teacher second (or the order that the loss wants)",
            effect="the teacher would be trained to imitate the student",
        )
    hard = lambda x: 1 - losses.spearman_correlation(x.student, x.teacher, 1e-6).mean()  # noqa: E731
    if seen.space == "logits" and all(
        abs(measure(hard, probe.inputs).value - probe.measured.value) < 0.05 for probe in seen.probes
    ):
        return _ranks_without_gradient(0.0)
    return Finding(
        "no_gradient",
        expected="gradient for the student",
        measured="no gradient reaches the student",
        cause="the graph is cut: argsort, argmax, round, .item(), .detach() or torch.no_grad() on the student's side",
        fix="compute the loss from the student's tensors with differentiable operations only",
        effect="nothing is distilled",
    )


def _ranks_without_gradient(coverage: float) -> Finding:
    return Finding(
        "rank_without_gradient",
        expected="a soft rank that passes gradient to most classes",
        measured=f"{coverage:.0%} of the student's logits get any gradient",
        cause="ranks are steps (argsort, or a soft rank whose strength is too small): flat nearly everywhere",
        fix="use a soft rank of z-scored logits with strength 3 / C",
        effect="the loss has a value, and teaches next to nothing",
    )


def _behaves_like_ranks(kind: Kind, seen: Evidence) -> bool:
    x = seen.probes[0].inputs
    scaled = x.changed(student=3 * x.student + 1, teacher=2 * x.teacher - 1)
    value = measure(seen.loss, x).value
    near = TOLERANCE_OF_STRANGERS
    return (
        abs(at_equality(seen.loss, x).value) < near
        and abs(measure(seen.loss, scaled).value - value) < near * max(1.0, abs(value))
        and all(_cosine(kind, probe) > 0.3 for probe in seen.probes)
    )


TOLERANCE_OF_STRANGERS = 0.02


def _cosine(kind: Kind, probe) -> float:
    due, found = gradient_of(kind.definition, probe.inputs), probe.measured.gradient
    return float(due @ found / (due.norm() * found.norm()))


def _unknown(kind: Kind, seen: Evidence, searched: bool) -> Finding:
    x = seen.probes[0].inputs
    kept = invariances(seen.loss, seen.space, x, 5e-3)
    due = invariances(kind.definition, seen.space, x, 5e-3)
    broken = [name for name, holds in due.items() if holds and not kept[name]]
    if abs(measure(kind.definition, x).value) > 1e-6 and not seen.uses_labels:
        at_zero = at_equality(seen.loss, x).value
        if abs(at_zero) > 1e-3 * abs(seen.probes[0].measured.value):
            broken.append(f"0 where student and teacher agree (it is {at_zero:.4g})")
    properties = f"; it should be blind to, or keep: {', '.join(broken)}" if broken else ""
    return Finding(
        "unknown_loss",
        expected="one of the losses the audit knows" if searched else kind.title,
        measured=f"no known loss or mistake fits; the nearest is {kind.title}{properties}"
        if searched
        else f"something else{properties}",
        cause=CAUSES.get(broken[0], "not a mistake known here") if broken else "not a mistake known here",
        fix="compare it with the equation term by term, on three samples and three classes",
        effect=effect(kind, None, seen.probes),
    )


CAUSES = {
    "order of the samples": "samples are treated by their place in the batch: by an index, a roll, a shift",
    "order of the classes": "classes are treated by their place, or a dimension is mistaken for another",
    "a constant added to each row of logits": "logits are used somewhere without a softmax or a subtracted mean",
    "a rotation of each network's features": "features are used coordinate by coordinate, not by inner products",
    "the scale of the teacher's features": "a normalisation is missing or misplaced",
}
