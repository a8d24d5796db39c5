"""From a match to findings: what is wrong, the likely cause, the fix, and what it does to the training signal."""

import math
from collections.abc import Iterator

from .explain import COMPANIONS, NEAR, SMALL, Match, Probe, cross_entropy_of_softmax, factor_law, share
from .fit import PowerLaw
from .kinds import Kind, Law
from .measure import gradient_of
from .report import Finding

ALL_SIZES = "BCTKD"


def identity(kind: Kind, match: Match | None, found: list[Finding], searched: bool) -> str:
    """One sentence: which loss it is, up to which factor, and with which mistakes."""
    if match is None:
        return "none of the losses the audit knows" if searched else f"not {kind.title}"
    changes = dict.fromkeys(finding.makes_it for finding in found if finding.makes_it)
    if match.known is not None:
        said = ", ".join((f"this is {match.known.is_called}", *changes))
        return said if searched or match.known.acceptable else f"{said}, not {kind.title}"
    unsaid = any(not finding.note and not finding.makes_it for finding in found)
    return ", ".join((f"this is {kind.title}", *changes)) + (", but see below" if unsaid else "")


def judge(match: Match, probes: list[Probe], settings_known: bool) -> Iterator[Finding]:
    """All findings and notes on a loss that was recognised."""
    kind, known = match.kind, match.known
    if known is not None:
        yield Finding(
            known.code,
            expected=kind.title,
            measured=f"this is {known.is_called}",
            cause=known.cause,
            fix=known.fix,
            effect=effect(kind, match, probes),
            note=known.acceptable,
        )
        sizes = ALL_SIZES if known.acceptable else known.scaled_in
        if sizes:
            yield from _judge_factor(kind, match, known.code, 1.0, probes, sizes)
        yield from _judge_companions(kind, match, probes)
        return

    constants = {}
    for part in kind.parts:
        weight = kind.weights.get(part, 1.0)
        if weight == 0:
            continue
        if share(match, part, probes) < SMALL:
            yield _missing(kind, part, match)
            continue
        findings = list(_judge_factor(kind, match, part, weight, probes))
        law = factor_law([c / weight for c in match.coefficients[part]], probes)
        if law is not None and law.error <= NEAR:
            constants[part] = law.constant
        if len(kind.parts) > 1:  # a common weight of all parts is judged below
            findings = [finding for finding in findings if finding.code != "weighted"]
        yield from findings
    if len(constants) > 1:
        yield from _judge_balance(kind, constants, settings_known)
    yield from _judge_value(kind, match, probes)
    yield from _judge_companions(kind, match, probes)


COMPANION_CODES = {
    "cross-entropy with the labels": "with_cross_entropy",
    "cross-entropy with uniform labels": "with_smoothed_labels",
    "cross-entropy of softened logits with the labels": "with_softened_cross_entropy",
    "cross-entropy of probabilities with the labels": "cross_entropy_of_probabilities",
}


def _judge_companions(kind: Kind, match: Match, probes: list[Probe]) -> Iterator[Finding]:
    for name, loss in COMPANIONS.items():
        if name not in match.coefficients or share(match, name, probes) < SMALL:
            continue
        right = loss is not cross_entropy_of_softmax
        yield Finding(
            COMPANION_CODES[name],
            expected=f"{kind.title} alone, or with cross-entropy",
            measured=f"{name} is added, times {_range(match.coefficients[name])}",
            cause=(
                "the criterion is bundled with cross-entropy, which was subtracted"
                if right
                else "F.cross_entropy, which applies log_softmax itself, is given probabilities"
            ),
            fix="nothing to mend" if right else "give F.cross_entropy the logits",
            effect="" if right else "the labels' pull fades: probabilities differ by 1 at most, logits by much more",
            note=right,
            makes_it=f"plus {name}",
        )


def _missing(kind: Kind, part: str, match: Match) -> Finding:
    alone = len(kind.parts) == 1
    return Finding(
        "teacher_unused" if alone else "part_missing",
        expected=f"{kind.title}, with its {part}",
        measured="the gradient does not depend on the teacher" if alone else f"the {part} sends no gradient",
        cause="plain cross-entropy with the labels: the teacher's answer is not used"
        if alone
        else f"the {part} is missing",
        fix=f"add {kind.title}" if alone else f"add the {part}",
        effect="nothing is distilled" if alone else "a part of the teacher's signal is lost",
        makes_it="without the teacher" if alone else f"without its {part}",
    )


def _judge_factor(
    kind: Kind, match: Match, part: str, weight: float, probes: list[Probe], sizes: str = ALL_SIZES
) -> Iterator[Finding]:
    """The factor before a part: how it scales with each of the sizes, and, where T is one of them, what is left."""
    factors = [c / weight for c in match.coefficients[part]]
    name = part if len(kind.parts) > 1 else kind.title
    law = factor_law(factors, probes)
    if law is None or law.error > NEAR:
        yield _unsteady(name, factors, probes)
        return
    constant, powers = _read_fixed_sizes(kind, law, probes[0].sizes)
    constant = constant if "T" in sizes or constant < 0 else 1.0
    for size, power in powers.items():
        if size[0] in sizes:
            yield _scaling(kind, name, size, power, constant, factors, probes)
    if constant < 0:
        yield Finding(
            "wrong_sign",
            expected=f"a loss that falls as the student nears the teacher: {name}",
            measured=f"its gradient times {constant:.4g}",
            cause="the sign is turned round: minimising this drives the student away from the teacher",
            fix="multiply the loss by -1",
            effect="the student unlearns",
            makes_it="with its sign turned round",
        )
    elif abs(constant - 1) > NEAR and powers.get("B", 0) <= 0:
        yield Finding(
            "weighted",
            expected=f"{name}, or a constant times it",
            measured=f"{constant:.4g} times {name}",
            cause="a constant weight, which may well be meant",
            fix="nothing to mend if it is the weight you chose",
            effect=f"the gradient has {constant:.4g} of its size",
            note=True,
            makes_it=f"times {constant:.4g}",
        )


def _unsteady(name: str, factors: list[float], probes: list[Probe]) -> Finding:
    """The direction is right on every batch, and the size follows no power of the batch's sizes."""
    expected, measured = f"a constant times {name}", f"its gradient times {_range(factors)}, from batch to batch"
    # The gradient of sqrt(L) is that of L times 1 / (2 sqrt(L)): factor times value is then steady.
    law = factor_law([f * p.measured.value for f, p in zip(factors, probes, strict=True)], probes)
    if law is not None and law.error <= NEAR:
        return Finding(
            "norm_not_squared",
            expected,
            measured,
            cause="the square root is taken: a norm of the difference, and not its square",
            fix="sum the squared differences",
            effect="the pull does not fade as the student nears the teacher, and its size depends on the batch",
            makes_it="with its square root taken",
        )
    again = [factor for factor, probe in zip(factors, probes, strict=True) if probe.sizes == probes[0].sizes]
    if max(again) - min(again) > NEAR * abs(max(again, key=abs)):
        cause = "the loss is rescaled by something measured on the batch, such as its own detached value"
    else:
        cause = "the loss is rescaled by something that changes with the sizes of the batch"
    return Finding(
        "factor_varies",
        expected,
        measured,
        cause,
        fix="weigh the loss by a constant",
        effect="the weight beside it means something else for each batch",
        makes_it="rescaled from batch to batch",
    )


def _read_fixed_sizes(kind: Kind, law: PowerLaw, sizes: dict[str, float]) -> tuple[float, dict[str, float]]:
    """A constant that is a power of a size which could not be varied is read as that power."""
    powers = dict(law.powers)
    for known in kind.laws:
        value = sizes.get(f"fixed {known.size}")
        if value and value != 1 and known.size not in powers and abs(law.constant / value**known.power - 1) < 1e-3:
            return 1.0, {**powers, known.size: known.power}
    return law.constant, powers


def _scaling(kind: Kind, name: str, size: str, power: float, constant: float, factors: list[float], probes) -> Finding:
    law = next((law for law in kind.laws if (law.size, law.power) == (size, power)), None)
    if size == "B" and power > 0 and abs(constant - 1) > NEAR:  # a plain sum would leave the factor 1
        divisor = abs(constant) ** (-1 / power)
        law = Law(
            "B",
            power,
            "fixed_batch_size",
            f"a sum over the batch is divided by a fixed batch size (about {divisor:.4g})",
            "divide by the size of the batch at hand, student.shape[0]: a ragged last batch is smaller",
        )
    if law is None:
        law = Law(
            size,
            power,
            f"scales_with_{size}",
            f"the loss changes with {size} as it should not",
            f"remove {size} ** {power:g}",
        )
    value = probes[0].sizes.get(size, probes[0].sizes.get(f"fixed {size}"))
    raised = f"{size} ** {abs(power):g}" if abs(power) != 1 else size
    _, _, setting = law.cause.partition(": ")
    makes_it = f"{'times' if power > 0 else 'divided by'} {raised} = {value ** abs(power):.4g}" + (
        f": {setting}" if setting else ""
    )
    if law.code == "fixed_batch_size":
        makes_it = f"summed over the batch and divided by {1 / abs(constant):.4g}"
    return Finding(
        law.code,
        expected=f"{name}, whatever {size} is",
        measured=f"{name} times {size} ** {power:g}, here {value:g} ** {power:g} = {value**power:.4g}",
        cause=law.cause,
        fix=law.fix,
        effect=f"the gradient has {_range([abs(factor) for factor in factors])} of its due size on the batches probed",
        makes_it=f"its {name} {makes_it}" if len(kind.parts) > 1 else makes_it,
    )


def _judge_balance(kind: Kind, constants: dict[str, float], settings_known: bool) -> Iterator[Finding]:
    values = list(constants.values())
    if max(values) - min(values) > NEAR * max(map(abs, values)):
        acts = {part: constant * kind.weights.get(part, 1.0) for part, constant in constants.items()}
        due = {part: kind.weights.get(part, 1.0) for part in constants}
        say = lambda weights: ", ".join(f"{part} {weight:.4g}" for part, weight in weights.items())  # noqa: E731
        swapped = sorted(acts.values()) == sorted(due.values()) or all(
            abs(a - d) < NEAR * abs(d) for a, d in zip(acts.values(), reversed(due.values()), strict=True)
        )
        yield Finding(
            "weights_swapped" if swapped else "parts_out_of_balance",
            expected=f"weights: {say(due)}",
            measured=f"weights: {say(acts)}",
            cause="the weights of the two parts are swapped"
            if swapped
            else "the parts have other weights than asked for",
            fix="check which weight multiplies which part",
            effect="the parts pull with other strengths than the settings say",
            note=not settings_known and not swapped,
            makes_it="with the weights of its parts swapped" if swapped else "with other weights",
        )
    elif abs(values[0] - 1) > NEAR:
        yield Finding(
            "weighted",
            expected=f"{kind.title}, or a constant times it",
            measured=f"{values[0]:.4g} times {kind.title}",
            cause="a constant weight, which may well be meant",
            fix="nothing to mend if it is the weight you chose",
            effect=f"the gradient has {values[0]:.4g} of its size",
            note=True,
            makes_it=f"times {values[0]:.4g}",
        )


def _judge_value(kind: Kind, match: Match, probes: list[Probe]) -> Iterator[Finding]:
    values = [probe.measured.value for probe in probes]
    if not all(map(math.isfinite, values)):
        yield Finding(
            "value_not_finite",
            expected="a number",
            measured="NaN or infinity, while the gradient is right",
            cause="a logarithm of zero or of something negative in a term that has no gradient",
            fix="compute with log_softmax, and multiply by 0 nowhere that log 0 is near",
            effect="training goes on, but the log shows nothing",
        )
        return
    size = max(max(map(abs, values)), 1e-12)
    if max(map(abs, match.offsets)) > 10 * NEAR * size * 0.05:
        yield Finding(
            "shifted_value",
            expected=f"{kind.title}, 0 where student and teacher agree",
            measured=f"the same gradient, but a value that is off by {_range(match.offsets)}",
            cause="a term that does not depend on the student is left out or added, such as the teacher's entropy",
            fix="nothing to mend in training; the value alone is harder to read",
            note=True,
        )


def effect(kind: Kind, match: Match | None, probes: list[Probe]) -> str:
    """How the gradient compares with the right one: its size and its direction."""
    sizes, cosines = [], []
    for i, probe in enumerate(probes):
        due, found = gradient_of(kind.definition, probe.inputs), probe.measured.gradient
        for name, companion in COMPANIONS.items():
            if match is not None and name in match.coefficients:
                found = found - match.coefficients[name][i] * probe.gradient_of(companion)
        if not due.norm() or not found.norm():
            return "no gradient reaches the student"
        sizes.append(float(found.norm() / due.norm()))
        cosines.append(float(due @ found / due.norm() / found.norm()))
    worst = min(cosines)
    turned = (
        "the same direction" if worst > 0.9999 else f"another direction (cosine with the right one {_range(cosines)})"
    )
    return f"the gradient has {_range(sizes)} of its due size and {turned}"


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    if abs(high - low) <= 0.01 * max(abs(high), abs(low), 1e-12):
        return f"{(low + high) / 2:.3g}"
    return f"{low:.3g} to {high:.3g}"
