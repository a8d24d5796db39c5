"""The losses that the audit knows, by name."""

import inspect
from collections.abc import Callable

from kdtutor.losses import PRESETS
from kdtutor.losses._checks import check_choice

from .base import Kind, Known, Law
from .correlation import make_cmkd, make_dist, make_pearson, make_spearman
from .kernel import make_kernel
from .relations import make_cell, make_preset, make_rkd, make_rkd_angle
from .softmax import make_dkd, make_kd, make_logit_standardization, make_stkd

KINDS: dict[str, Callable[..., Kind]] = {
    "kd": make_kd,
    "logit_standardization": make_logit_standardization,
    "dkd": make_dkd,
    "stkd": make_stkd,
    "pearson": make_pearson,
    "spearman": make_spearman,
    "cmkd": make_cmkd,
    "dist": make_dist,
    **{name: make_preset(name) for name in PRESETS},
    "rkd_angle": make_rkd_angle,
    "rkd": make_rkd,
    "similarity": make_cell,  # SP, or with affinity=, normalization=, discrepancy= any cell of the framework
    "kernel": make_kernel,
}
# A family's name stands for "whichever of these it is".
FAMILIES: dict[str, tuple[str, ...]] = {
    "correlation": ("pearson", "spearman", "cmkd", "dist"),
    "auto": tuple(name for name in KINDS if name != "similarity"),
}

__all__ = ["FAMILIES", "KINDS", "Kind", "Known", "Law", "kinds_named", "options_of"]


def kinds_named(kind: str, options: dict) -> list[Kind]:
    """The kinds that a name stands for, each with the options it knows: kinds_named("dkd", {"beta": 2.0})."""
    check_choice("kind", kind, {*KINDS, *FAMILIES, "mixup", "mixup_step"})
    return [
        KINDS[name](**{key: value for key, value in options.items() if key in options_of(name)})
        for name in FAMILIES.get(kind, (kind,))
    ]


def options_of(kind: str) -> set[str]:
    """The settings that a kind's definition has."""
    parameters = list(inspect.signature(KINDS[kind]).parameters.values())
    of_cells = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    return named | ({"tau", "gamma", "order"} if of_cells else set())
