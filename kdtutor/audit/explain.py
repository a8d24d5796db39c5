"""Which known loss is this? A gradient is explained as the sum of known gradients, batch after batch."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional as F

from .fit import TOLERANCE, PowerLaw, fit_power_law, fit_sum
from .inputs import Inputs
from .kinds import Kind, Known
from .measure import Measured, gradient_of, measure

NEAR = 0.02  # factors this near to each other are the same
SMALL = 1e-4  # a part with this share of the gradient, or less, is no part: rounding and epsilons leave as much


@dataclass
class Probe:
    """One batch, what the loss answered to it, and a memory of the gradients of known losses on it."""

    inputs: Inputs
    measured: Measured
    sizes: dict[str, float]
    gradients: dict[Callable, Tensor] = field(default_factory=dict)

    def gradient_of(self, loss: Callable) -> Tensor:
        if loss not in self.gradients:
            self.gradients[loss] = gradient_of(loss, self.inputs)
        return self.gradients[loss]


@dataclass(frozen=True)
class Match:
    """The loss is, on every batch, the sum of these parts with these coefficients."""

    kind: Kind
    known: Known | None  # None: the definition itself
    coefficients: dict[str, list[float]]  # part -> one coefficient a batch
    residual: float  # the largest share of a gradient that is left over
    offsets: list[float]  # value - sum of coefficients * values


def cross_entropy(x: Inputs) -> Tensor:
    return F.cross_entropy(x.student, x.labels)


def cross_entropy_of_softmax(x: Inputs) -> Tensor:
    return F.cross_entropy(x.student.softmax(-1), x.labels)


def cross_entropy_of_softened(x: Inputs) -> Tensor:
    """Nothing at temperature 1, where it is plain cross-entropy."""
    if abs(x.temperature - 1) < NEAR:
        return 0 * x.student.sum()
    return F.cross_entropy(x.student / x.temperature, x.labels)


def cross_entropy_of_uniform(x: Inputs) -> Tensor:
    """What label_smoothing adds."""
    return -x.student.log_softmax(-1).mean()


# What is often bundled with a loss, right or wrong.
COMPANIONS = {
    "cross-entropy with the labels": cross_entropy,
    "cross-entropy with uniform labels": cross_entropy_of_uniform,
    "cross-entropy of softened logits with the labels": cross_entropy_of_softened,
    "cross-entropy of probabilities with the labels": cross_entropy_of_softmax,
}


def companions(kind: Kind, uses_labels: bool) -> dict[str, Callable]:
    """What may be bundled with the loss, where it gets labels and is not made of cross-entropy itself."""
    return COMPANIONS if kind.space == "logits" and uses_labels and kind.name != "stkd" else {}


def explain(kind: Kind, probes: list[Probe], uses_labels: bool) -> Match | None:
    """The definition where it fits; else the known mistake that fits best; else None."""
    definition = explain_definition(kind, probes, uses_labels)
    if definition is not None and is_steady(definition, probes):
        return definition
    matches = [_try(kind, known, {known.code: known.loss}, probes, uses_labels) for known in kind.others]
    matches = [match for match in matches if match is not None]
    steady = [match for match in matches if is_steady(match, probes)]
    if definition is not None:  # in direction; a known loss must explain the factor too to be more likely
        return steady[0] if steady else definition
    # Of mistakes that all fit, the one listed first is the nearest to the definition.
    matches = steady or matches
    best = min((match.residual for match in matches), default=0.0)
    return next((match for match in matches if match.residual <= 10 * best + 1e-9), None)


def explain_definition(kind: Kind, probes: list[Probe], uses_labels: bool) -> Match | None:
    return _try(kind, None, kind.parts, probes, uses_labels)


def _try(kind: Kind, known: Known | None, parts: dict, probes: list[Probe], uses_labels: bool) -> Match | None:
    parts = {**parts, **companions(kind, uses_labels)}
    coefficients = {name: [] for name in parts}
    residuals, offsets = [], []
    for probe in probes:
        try:
            gradients = [probe.gradient_of(loss) for loss in parts.values()]
        except ValueError:  # this known loss cannot take these shapes
            return None
        if probe.measured.gradient is None:
            return None
        found, residual = fit_sum(probe.measured.gradient, gradients)
        if residual > TOLERANCE:
            return None
        residuals.append(residual)
        value = 0.0
        for (name, loss), coefficient in zip(parts.items(), found, strict=True):
            coefficients[name].append(coefficient)
            value += coefficient * measure(loss, probe.inputs).value if coefficient else 0.0
        offsets.append(probe.measured.value - value)
    if known is not None and all(abs(c) < 1e-9 for c in coefficients[known.code]):
        return None
    match = Match(kind, known, coefficients, max(residuals), offsets)
    bundled = (name for name in parts if name in COMPANIONS and min(coefficients[name]) < 0)
    # Taken away, one cross-entropy can make up for another: nobody means that.
    return None if any(share(match, name, probes) > SMALL for name in bundled) else match


def is_steady(match: Match, probes: list[Probe]) -> bool:
    """Is each part's factor the same on all batches, powers of the sizes apart?"""
    laws = [
        factor_law(factors, probes)
        for part, factors in match.coefficients.items()
        if part not in COMPANIONS and any(factors)
    ]
    return all(law is not None and law.error <= NEAR for law in laws)


def share(match: Match, part: str, probes: list[Probe]) -> float:
    """The largest share of the gradient that a part has in any batch."""
    loss = {**match.kind.parts, **COMPANIONS}[part]
    pairs = zip(match.coefficients[part], probes, strict=True)
    return max(float(abs(c) * p.gradient_of(loss).norm() / p.measured.gradient.norm()) for c, p in pairs)


def factor_law(factors: list[float], probes: list[Probe]) -> PowerLaw | None:
    return fit_power_law(factors, [probe.sizes for probe in probes])
