"""Run a loss on many batches: sizes varied one at a time and together, so that every factor shows its powers."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdtutor import losses

from .calling import AuditError, Call, as_scalar, prepare_call, signature_of
from .explain import Probe
from .inputs import Inputs, Sizes, draw
from .measure import measure


@dataclass(frozen=True)
class Evidence:
    """A loss as a function of Inputs, and what it answered. The first two batches have the same sizes."""

    call: Call
    loss: Callable[[Inputs], Tensor]
    space: str
    probes: list[Probe]
    uses_labels: bool
    varies_temperature: bool
    failed: tuple[str, ...]  # sizes that the loss refused

    def comparable(self, definition: Callable[[Inputs], Tensor]) -> "Evidence":
        """Without the batches on which even the definition sends no gradient to speak of (a saturated softmax)."""
        probes = [probe for probe in self.probes if probe.gradient_of(definition).norm() > 1e-7]
        return replace(self, probes=probes if len(probes) > 2 else self.probes)

    def at_temperature(self, temperature: float) -> "Evidence":
        """The same answers of a loss whose own temperature cannot be changed, read as if it were this one."""
        probes = [
            Probe(
                probe.inputs.changed(temperature=temperature), probe.measured, {**probe.sizes, "fixed T": temperature}
            )
            for probe in self.probes
        ]
        return replace(self, probes=probes)


def gather(
    loss_fn,
    space: str,
    temperature: float | None = None,
    arguments=None,
    output: str | int | None = None,
    num_classes: int | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float64,
    settings: dict | None = None,
    known_settings: Iterable[str] = (),
) -> Evidence:
    """Call the loss on all batches of the plan. known_settings are those that the definitions take."""
    call = prepare_call(loss_fn, space, arguments, settings)
    unused = set(settings or {}) - set(call.settings) - set(call.build_settings) - set(known_settings)
    if unused:
        raise AuditError(f"{call.name} has no parameter {', '.join(sorted(unused))}, and no definition asked for has")
    loss = lambda inputs: as_scalar(call(inputs), output)  # noqa: E731
    if temperature is None:
        temperature = call.fixed_temperature or 4.0
    base = Sizes(B=batch_size or 8, C=num_classes or 10, T=temperature)
    base = _accepted(loss, call, space, base, dtype)
    varies_temperature = "temperature" in call.used

    probes, failed = [], []
    for sizes, seed in plan(space, base, varies_temperature, num_classes is None, batch_size is None):
        inputs = draw(space, sizes, seed, dtype)
        try:
            measured = measure(loss, inputs)
        except Exception as error:  # whatever a stranger's loss raises
            failed.append(f"{_say(space, sizes)}: {type(error).__name__}: {error}")
            continue
        named = _named_sizes(space, sizes, inputs, varies_temperature, num_classes is None, batch_size is None)
        probes.append(Probe(inputs, measured, named))
    return Evidence(call, loss, space, probes, "labels" in call.used, varies_temperature, tuple(failed))


def plan(space: str, base: Sizes, vary_T: bool, vary_C: bool, vary_B: bool) -> list[tuple[Sizes, int]]:
    B = (lambda n: n) if vary_B else (lambda n: base.B)
    C = (lambda n: n) if vary_C else (lambda n: base.C)
    T = (lambda times: times * base.T) if vary_T else (lambda times: base.T)
    if space == "logits":
        changes = [
            {},
            {},
            {"B": B(16)},
            {"C": C(20)},
            {"T": T(0.5)},
            {"B": B(5), "C": C(6), "T": T(2)},
            {"B": B(13), "C": C(30)},
        ]
    elif space == "kernel":
        changes = [{}, {}, {"B": B(16)}, {"K": 11}, {"D_s": 25}, {"D_t": 9}, {"B": B(5), "K": 9, "D_s": 15, "D_t": 15}]
    else:
        same_width = base.D_s == base.D_t
        width = lambda s, t: {"D_s": s, "D_t": s if same_width else t}  # noqa: E731
        changes = [{}, {}, {"B": B(16)}, width(24, 20), width(12, 9), {"B": B(5), **width(16, 16)}]
        changes.append({"B": B(12), "maps": True})
    sizes = [replace(base, **change) for change in changes]
    return [(size, seed) for seed, size in enumerate(sizes)]


def _accepted(loss: Callable, call: Call, space: str, base: Sizes, dtype: torch.dtype) -> Sizes:
    """The first form of the base sizes that the loss takes: features may have to be equally wide, or maps."""
    forms = [base]
    if space == "features":
        forms = [replace(base, D_t=D_t, maps=maps) for maps in (False, True) for D_t in (base.D_t, base.D_s)]
    first_error = None
    for sizes in forms:
        try:
            measure(loss, draw(space, sizes, 0, dtype))
        except AuditError:
            raise
        except Exception as error:  # whatever a stranger's loss raises
            first_error = first_error or error
        else:
            return sizes
    raise AuditError(
        f"{call.name} failed on a random batch ({_say(space, base)}) with {type(first_error).__name__}: {first_error}; "
        "if it wants other arguments, pass arguments=('student_log_probabilities', 'teacher_probabilities'), for "
        "instance, or arguments=lambda x: (...); see kdtutor.audit.ROLES"
    ) from first_error


def _say(space: str, sizes: Sizes) -> str:
    if space == "logits":
        return f"B {sizes.B}, C {sizes.C}, T {sizes.T:g}"
    shape = "maps" if sizes.maps else "vectors"
    return f"B {sizes.B}, {shape} of width {sizes.D_s} and {sizes.D_t}" + (
        f", K {sizes.K}" if space == "kernel" else ""
    )


def _named_sizes(
    space: str, sizes: Sizes, inputs: Inputs, vary_T: bool, vary_C: bool, vary_B: bool
) -> dict[str, float]:
    """What the factor's law may depend on; "fixed" marks a size that could not be varied."""
    named = {"B" if vary_B else "fixed B": sizes.B}
    if space == "logits":
        named |= {"C" if vary_C else "fixed C": sizes.C, "T" if vary_T else "fixed T": sizes.T}
    else:
        named |= {"D_s": inputs.student[0].numel(), "D_t": inputs.teacher[0].numel()}
    if space == "kernel":
        named["K"] = sizes.K
    return {key: float(value) for key, value in named.items()}


def as_loss(standardize: Callable) -> Callable:
    """A function of one tensor of logits, made a loss: KD of what it returns."""

    def kd_of_standardized(student, teacher, temperature):
        return losses.kd_loss(standardize(student), standardize(teacher), temperature)

    kd_of_standardized.__qualname__ = getattr(standardize, "__qualname__", type(standardize).__name__)
    return kd_of_standardized


def takes_one_tensor(loss_fn) -> bool:
    if inspect.isclass(loss_fn):
        return False
    parameters = signature_of(loss_fn.forward if isinstance(loss_fn, torch.nn.Module) else loss_fn).values()
    return sum(parameter.default is parameter.empty for parameter in parameters) == 1
