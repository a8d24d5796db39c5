"""audit: is this distillation loss what its name says?"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from .behaviour import behaviour
from .calling import AuditError, load_loss
from .explain import Match, explain, explain_definition
from .gather import Evidence, as_loss, gather, takes_one_tensor
from .kinds import FAMILIES, Kind, kinds_named, options_of
from .kinds.softmax import FIXED_TEMPERATURES
from .measure import gradient_of
from .mixing import audit_mixup
from .mixing_steps import audit_mixup_step
from .report import Finding, Report
from .strangers import judge_stranger, rank_coverage
from .verdict import identity, judge


def audit(
    loss_fn,
    kind: str = "auto",
    temperature: float | None = None,
    *,
    arguments=None,
    output: str | int | None = None,
    num_classes: int | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float64,
    **options,
) -> Report:
    """Compare a distillation loss with its definition, on many batches, by value and by gradient.

        report = audit(my_loss, kind="kd", temperature=4.0)
        print(report); report.ok; report.findings

    Args:
        loss_fn: a function, an nn.Module (or any callable object), or a class of such, which is then built anew
            for each temperature. For kind "logit_standardization" it may also be a function of one tensor.
        kind: a name in KINDS; "correlation" (any of Pearson, Spearman, CMKD, DIST); "auto" (which loss is
            this?); "mixup" (a function that mixes images); "mixup_step" (student, teacher, images, labels -> loss).
        temperature: what the loss should use; None for the object's own, or 4.
        arguments: how to call the loss, where its parameters' names do not say it: roles in positional order,
            ("teacher", "student"); a mapping from parameter to role or constant, {"x": "student_log_probabilities"};
            or a function of Inputs that returns the positional arguments (a tuple) or the keyword arguments (a dict).
        output: which entry of a returned dict, list or tuple is the loss. The sum of a dict or list, and the first
            of a tuple, where None.
        num_classes, batch_size: pass them where the loss can take no other.
        dtype: of the inputs, torch.float64 or torch.float32.
        options: settings of the definition (alpha, beta, weight, affinity, ...), passed on to the loss where it
            has a parameter of that name; and whatever else the loss, or the class's constructor, should get.

    Returns:
        A Report. `ok` is false where there is a finding; notes leave it true.

    Raises:
        AuditError (a ValueError): the loss cannot be called; the message says what to pass.
        ValueError: an unknown kind.
    """
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), _one_thread():
        warnings.simplefilter("ignore")  # a warning of the loss's own would come a hundred times
        torch.manual_seed(0)
        if kind == "mixup":
            return audit_mixup(loss_fn, **options)
        if kind == "mixup_step":
            return audit_mixup_step(loss_fn, **options)
        look = partial(
            gather,
            temperature=temperature,
            arguments=arguments,
            output=output,
            num_classes=num_classes,
            batch_size=batch_size,
            dtype=dtype,
            settings=options,
        )
        return _audit_loss(loss_fn, kind, look, temperature, options)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Batches this small are done sooner than a second thread wakes up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _audit_loss(loss_fn, kind: str, look: Callable, temperature: float | None, options: dict) -> Report:
    """Of all kinds that the name stands for, report on the one that fits best."""
    kinds = kinds_named(kind, options)
    if "logit_standardization" in {kind.name for kind in kinds} and takes_one_tensor(loss_fn):
        loss_fn, kinds = as_loss(loss_fn), kinds_named("logit_standardization", {})

    known = set().union(*(options_of(name) for name in FAMILIES.get(kind, (kind,))))
    evidence: dict[str, Evidence | AuditError] = {}
    best = None
    for candidate in kinds:
        if candidate.space not in evidence:
            try:
                evidence[candidate.space] = look(loss_fn, candidate.space, known_settings=known)
            except AuditError as error:
                evidence[candidate.space] = error
        seen = evidence[candidate.space]
        if isinstance(seen, AuditError):
            continue
        match, seen = _recognise(candidate, seen, temperature)
        rank = _rank(candidate, match, seen, options)
        if best is None or rank < best[0]:
            best = rank, candidate, match, seen
        if rank[0] <= 1:
            break
    if best is None:
        raise next(iter(evidence.values()))
    _, candidate, match, seen = best
    searched = kind in FAMILIES
    if searched and match is not None and match.known is not None and match.known.in_its_own_right:
        candidate, match = _in_its_own_right(match)
    return _report(candidate, match, seen, options, searched)


def run(target: str, kind: str = "auto", temperature: float | None = None, **options) -> int:
    """`kdtutor audit package.module:name`: print the report; 0, or 1 on findings, or 2 if it cannot be called."""
    try:
        report = audit(load_loss(target), kind, temperature, **options)
    except (ValueError, TypeError) as error:
        print(f"kdtutor audit: {error}")
        return 2
    print(report)
    return 0 if report.ok else 1


def _recognise(kind: Kind, seen: Evidence, temperature: float | None) -> tuple[Match | None, Evidence]:
    """Where a loss has a temperature of its own and nobody said which, all usual ones are tried.

    A loss that is not known at the temperature asked for, and ignores it, may be a known mistake at its own.
    """
    seen = seen.comparable(kind.definition)
    match = explain(kind, seen.probes, seen.uses_labels)
    open_temperature = temperature is None and not seen.varies_temperature and seen.space == "logits"
    if open_temperature and (match is None or match.known is not None):
        for guess in FIXED_TEMPERATURES:
            other = seen.at_temperature(guess)
            found = explain_definition(kind, other.probes, seen.uses_labels)
            if found is not None:
                return found, other
    if match is None and seen.space == "logits" and _ignores_temperature(seen):
        for guess in FIXED_TEMPERATURES:
            other = seen.at_temperature(guess)
            found = explain(kind, other.probes, seen.uses_labels)
            if found is not None and found.known is not None:
                return found, other
    return match, seen


def _ignores_temperature(seen: Evidence) -> bool:
    """Does its gradient keep its direction at another temperature?"""
    x = seen.probes[0].inputs
    before, after = (gradient_of(seen.loss, x.changed(temperature=t * x.temperature)) for t in (1, 2))
    return bool((before * after.norm() - after * before.norm()).norm() <= 1e-6 * before.norm() * after.norm())


def _rank(kind: Kind, match: Match | None, seen: Evidence, options: dict) -> tuple:
    """How well a kind fits, the best first: as defined, by a factor, as a variant, as a known mistake, not at all."""
    if match is None:
        return 5, -_mean_cosine(kind, seen)
    if match.known is not None:
        level = 2 if match.known.acceptable else 4 if match.known.in_its_own_right else 3
        return level, kind.others.index(match.known)
    findings = [f for f in judge(match, seen.probes, _settings_known(kind, options)) if not f.note]
    if {finding.code for finding in findings} & {"teacher_unused", "part_missing"}:
        return 3, 0
    return (1, len(findings)) if findings else (0,)


def _mean_cosine(kind: Kind, seen: Evidence) -> float:
    cosines = []
    for probe in seen.probes:
        due, found = probe.gradient_of(kind.definition), probe.measured.gradient
        if found is None or not torch.isfinite(found).all() or not due.norm() or not found.norm():
            return -1.0
        cosines.append(float(due @ found / due.norm() / found.norm()))
    return sum(cosines) / len(cosines)


def _settings_known(kind: Kind, options: dict) -> bool:
    """Were the weights of the parts asked for, or at least passed on?"""
    return bool(set(options) & options_of(kind.name))


def _in_its_own_right(match: Match) -> tuple[Kind, Match]:
    """A loss that nobody asked for by another name is no mistake: it is its own definition."""
    known = match.known
    kind = replace(match.kind, name="similarity", title=known.is_called, parts={"cell": known.loss}, weights={})
    return kind, replace(match, kind=kind, known=None, coefficients={"cell": match.coefficients[known.code]})


def _without_a_name(kind: Kind) -> Finding:
    return Finding(
        "other_cell",
        expected="a loss with a name",
        measured=f"this is {kind.title}",
        cause="a cell of the affinity framework that has no name of its own",
        fix="nothing to mend if it is meant; audit it with kind='similarity' and its three modules as options",
        note=True,
    )


def _report(kind: Kind, match: Match | None, seen: Evidence, options: dict, searched: bool) -> Report:
    if match is None:
        found = list(judge_stranger(kind, seen, searched))
    else:
        found = list(judge(match, seen.probes, _settings_known(kind, options)))
        if searched and kind.name == "similarity":
            found.append(_without_a_name(kind))
        if kind.name == "spearman" and rank_coverage(seen) < 0.1:
            found = [f for f in found if f.code != "other_strength"] + list(judge_stranger(kind, seen, searched))
    checks = []
    for check, finding in behaviour(kind, match, seen):
        checks.append(check)
        if finding is not None:
            found.append(finding)
    findings = tuple(f for f in found if not f.note)
    return Report(
        name=seen.call.name,
        kind=kind.name if match is not None or not searched else None,
        identity=identity(kind, match, found, searched),
        findings=findings,
        notes=tuple(f for f in found if f.note),
        checks=tuple(checks),
    )
