"""What is asked of every loss, whichever it is: no side effects, no surprises at the edges, a teacher left alone."""

from collections.abc import Iterator

from . import probes
from .explain import COMPANIONS, Match
from .fit import TOLERANCE
from .gather import Evidence
from .kinds import Kind
from .report import Check, Finding


def behaviour(kind: Kind, match: Match | None, seen: Evidence) -> Iterator[tuple[Check, Finding | None]]:
    yield from _as_the_definition(kind, match, seen)
    yield _gradient_of_the_others(seen)
    yield _deterministic(seen)
    yield _inputs_unchanged(seen)
    yield _one_number(seen)
    yield _edges(seen)
    yield from _half_precision(seen)


def _as_the_definition(kind: Kind, match: Match | None, seen: Evidence) -> Iterator[tuple[Check, None]]:
    """Properties that are due because the definition has them; what breaks them is named elsewhere."""
    first = seen.probes[0]
    alone = match is None or not any(abs(c) > 1e-9 for name in COMPANIONS for c in match.coefficients.get(name, ()))
    if alone and abs(probes.at_equality(kind.definition, first.inputs).value) < 1e-6:
        value = probes.at_equality(seen.loss, first.inputs).value
        ok = abs(value) <= TOLERANCE * max(abs(first.measured.value), 1e-6)
        yield Check("zero where student and teacher agree", ok), None
    if first.measured.gradient is not None:
        wanted = probes.invariances(kind.definition, seen.space, first.inputs, 2 * TOLERANCE)
        kept = probes.invariances(seen.loss, seen.space, first.inputs, 2 * TOLERANCE)
        for name in (name for name, holds in wanted.items() if holds):
            yield Check(f"blind to {name}", kept[name]), None


def _gradient_of_the_others(seen: Evidence) -> tuple[Check, Finding | None]:
    gradients = seen.probes[0].measured.gradients
    others = [name for name, g in gradients.items() if name != "student" and g is not None and g.any()]
    reached = [name.replace("_", " ") for name in others]
    check = Check("no gradient but the student's", not reached)
    if not reached or gradients["student"] is None or not gradients["student"].any():
        return check, None
    return check, Finding(
        "teacher_gets_gradient",
        expected="gradient for the student alone",
        measured=f"a gradient reaches the {' and '.join(reached)} too",
        cause="the other inputs are not detached; harmless if the caller runs the teacher under torch.no_grad()",
        fix="call .detach() on them inside the loss",
        note=True,
    )


def _deterministic(seen: Evidence) -> tuple[Check, Finding | None]:
    ok = probes.is_deterministic(seen.loss, seen.probes[0].inputs)
    finding = Finding(
        "not_deterministic",
        expected="the same inputs, the same loss",
        measured="two calls on one batch differ",
        cause="the loss draws random numbers or keeps state from call to call",
        fix="make it a function of its arguments; keep dropout and running averages out of it",
        effect="noise on the gradient, and runs that cannot be repeated",
    )
    return Check("deterministic", ok), None if ok else finding


def _inputs_unchanged(seen: Evidence) -> tuple[Check, Finding | None]:
    changed = probes.changed_inputs(seen.loss, seen.probes[0].inputs)
    finding = Finding(
        "inputs_changed",
        expected="arguments left as they were",
        measured=f"the loss writes to {', '.join(changed)}",
        cause="an in-place operation, such as div_ or +=, on an argument",
        fix="use the form that makes a new tensor",
        effect="whoever uses these tensors next, another loss or the metrics, sees other numbers",
    )
    return Check("inputs left unchanged", not changed), finding if changed else None


def _one_number(seen: Evidence) -> tuple[Check, Finding | None]:
    shape = seen.probes[0].measured.shape
    finding = Finding(
        "not_scalar",
        expected="one number",
        measured=f"a tensor of shape {shape}, read as its sum over its length",
        cause="the loss is not reduced",
        fix="return its mean over the samples",
        note=True,
    )
    return Check("returns one number", not shape), finding if shape else None


def _edges(seen: Evidence) -> tuple[Check, Finding | None]:
    broken, refused = probes.edge_troubles(seen.loss, seen.space, seen.probes[0].inputs)
    finding = Finding(
        "not_finite_at_edge",
        expected="finite numbers, gradient included",
        measured=f"NaN or infinity for {', '.join(broken)}",
        cause="something is divided by 0, or exceeds the range of float32",
        fix="guard the division with masked_fill or clamp; use log_softmax, not the log of softmax",
        note=True,
    )
    said = f"refuses {', '.join(refused)}" if refused else ""
    return Check("finite at the edges", not broken, said), finding if broken else None


def _half_precision(seen: Evidence) -> Iterator[tuple[Check, Finding | None]]:
    if seen.probes[0].measured.gradient is None:
        return
    kept = probes.half_precision(seen.loss, seen.probes[0].inputs)
    bad = [name for name, ok in kept.items() if ok is False]
    finding = Finding(
        "half_precision",
        expected="finite numbers near those of float64",
        measured=f"NaN, infinity or a gradient off by more than a quarter in {' and '.join(bad)}",
        cause="sums and products are taken in half precision under autocast",
        fix="convert to float32 first, with autocast off",
        note=True,
    )
    for name, ok in kept.items():
        yield Check(f"holds in {name}", ok), finding if bad and name == bad[0] else None
