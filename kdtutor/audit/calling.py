"""How to call a loss that somebody else wrote: which of its parameters is the student, which the teacher, and so on."""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .inputs import ROLES, Inputs

NEEDS = {
    "logits": ("student", "teacher"),
    "features": ("student", "teacher"),
    "kernel": ("student", "teacher", "student_landmarks", "teacher_landmarks"),
}
LABELS = {"labels", "label", "target", "targets", "y", "gt", "y_true", "true_labels", "labels_a", "y_a", "target_a"}
PERMUTED_LABELS = {"permuted_labels", "labels_b", "y_b", "target_b", "targets_b", "shuffled_labels"}


class AuditError(ValueError):
    """The loss could not be called, so nothing can be said about it."""


@dataclass
class Call:
    """A loss, and how inputs become its arguments. Calling it gives the loss's raw output."""

    name: str
    function: Callable
    arguments: Callable[[Inputs], tuple | dict]
    settings: dict = field(default_factory=dict)  # keyword arguments that never change
    build: type | None = None  # a class whose objects are made for one temperature
    build_settings: dict = field(default_factory=dict)
    fixed_temperature: float | None = None  # an object's own, where it cannot be changed
    used: set[str] = field(default_factory=set)  # which inputs the loss has asked for so far

    def __call__(self, inputs: Inputs):
        function = self.function
        if self.build is not None:
            function = self.build(**{self.temperature_name: inputs.temperature}, **self.build_settings)
            self.used.add("temperature")
        arguments = self.arguments(_Watched(inputs, self.used))
        if isinstance(arguments, Mapping):
            return function(**arguments, **self.settings)
        return function(*arguments, **self.settings)

    temperature_name: str = "temperature"


class _Watched:
    """Inputs that take a note of what was read from them."""

    def __init__(self, inputs: Inputs, used: set[str]):
        self._inputs, self._used = inputs, used

    def __getattr__(self, name: str):
        self._used.add(name)
        return getattr(self._inputs, name)


def load_loss(target: str) -> Callable:
    """The object that "package.module:name" stands for; the current folder is searched too.

    Raises:
        AuditError: a target without a colon, or a module or name that cannot be found or imported.
    """
    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        raise AuditError(f"target is {target!r}, wanted 'package.module:name', for instance 'mypackage.losses:my_loss'")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module_name)
    except Exception as error:  # whatever a stranger's module raises
        said = f"{type(error).__name__}: {error}"
        raise AuditError(f"target is {target!r}, but module {module_name!r} cannot be imported: {said}") from error
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise AuditError(f"target is {target!r}, but module {module_name!r} has no {name!r}") from None
    return found


def prepare_call(loss, space: str, arguments=None, settings: dict | None = None) -> Call:
    """Work out how `loss` wants to be called, from `arguments` or from the names of its parameters.

    Args:
        loss: a function, an nn.Module or other callable object, or a class whose objects are callable.
        space: "logits", "features" or "kernel".
        arguments: None to read parameter names; roles in positional order, ("teacher", "student"); a
            mapping from parameter name to role or constant; or a function of Inputs that returns a tuple
            of positional or a dict of keyword arguments. Roles are the names in ROLES.
        settings: values by name, passed on to every parameter (or constructor parameter) of that name.
    """
    settings = dict(settings or {})
    name = getattr(loss, "__qualname__", None) or type(loss).__name__
    call = Call(name=name, function=loss, arguments=lambda inputs: ())
    if inspect.isclass(loss):
        _plan_building(call, loss, space, settings)
        called, skip_self = (loss.forward if issubclass(loss, torch.nn.Module) else loss.__call__), True
    else:
        called, skip_self = (loss.forward if isinstance(loss, torch.nn.Module) else loss), False
        for attribute in ("temperature", "T", "temp", "tau", "t"):
            value = getattr(loss, attribute, None)
            if isinstance(value, int | float) and not isinstance(value, bool):
                call.fixed_temperature = float(value)
                break
    signature = signature_of(called, skip_self)
    if arguments is None:
        arguments = guess_arguments(name, signature, space, settings)
    free = set(settings) - set(call.build_settings) if takes_any_setting(called) else set()
    call.settings = {key: value for key, value in settings.items() if key in signature or key in free}
    if callable(arguments):
        call.arguments = arguments
        return call
    named = isinstance(arguments, Mapping)
    for role in arguments.values() if named else arguments:
        if isinstance(role, str) and role not in ROLES:
            raise AuditError(f"arguments names the role {role!r}, which is not known; choose from {', '.join(ROLES)}")
    taken = set(arguments) if named else set(list(signature)[: len(arguments)])
    call.settings = {key: value for key, value in call.settings.items() if key not in taken}
    value_of = lambda inputs, role: getattr(inputs, role) if isinstance(role, str) else role  # noqa: E731
    if named:
        call.arguments = lambda inputs: {key: value_of(inputs, role) for key, role in arguments.items()}
    else:
        call.arguments = lambda inputs: tuple(value_of(inputs, role) for role in arguments)
    return call


def guess_arguments(name: str, signature: Mapping[str, inspect.Parameter], space: str, settings: dict):
    """Parameter name -> role, by name where the name says it, else by position: student, teacher, labels.

    A parameter that has a setting keeps it.
    """
    roles = {key: None if key in settings else _role(key, space) for key in signature}
    required = [key for key, parameter in signature.items() if parameter.default is parameter.empty]
    # In loss(input, target) the target is the teacher; in loss(s, t, target) it is the label.
    for who in ("student", "teacher"):
        if who not in roles.values():
            free = [key for key in required if roles[key] is None and key not in settings]
            free = free or [key for key in required if roles[key] == "labels" and who == "teacher"]
            if free:
                roles[free[0]] = who
    if "labels" not in roles.values():
        free = [key for key in required if roles[key] is None and key not in settings]
        if len(free) == 1 and space == "logits":
            roles[free[0]] = "labels"
    unknown = [key for key in required if roles[key] is None and key not in settings]
    missing = [role for role in NEEDS[space] if role not in roles.values()]
    if unknown or missing:
        trouble = f"parameter {unknown[0]!r} has no meaning known here" if unknown else f"none takes the {missing[0]}"
        raise AuditError(
            f"{name}({', '.join(signature)}): {trouble}; say how to call it, for instance "
            f"arguments=({', '.join(map(repr, NEEDS[space]))}) or arguments=lambda x: (x.student, x.teacher)"
        )
    wanted = {key: role for key, role in roles.items() if role is not None}
    positional = [key for key, parameter in signature.items() if parameter.kind is parameter.POSITIONAL_ONLY]
    return tuple(wanted[key] for key in positional) if positional else wanted


def _role(name: str, space: str) -> str | None:
    lower = name.lower()
    words = set(re.split(r"[_\d]+", lower))
    named_temperature = words & {"temperature", "temp", "temper"} and "difficulty" not in words
    if name == "T" or named_temperature or (lower == "tau" and space == "logits"):
        return "temperature"
    if lower in PERMUTED_LABELS or "permut" in lower:
        return "permuted_labels"
    if lower in LABELS:
        return "labels"
    if lower in ("lam", "lambda_", "lmbda"):
        return "lam"
    if lower in ROLES:
        return lower
    who = "student" if words & {"s", "stu", "stud", "student", "students"} else None
    who = who or ("teacher" if words & {"t", "tea", "teach", "teacher", "teachers"} else None)
    if who and words & {"landmarks", "center", "centers", "centre", "centres", "prototypes", "means"}:
        return f"{who}_landmarks" if space == "kernel" else None
    return who


def _plan_building(call: Call, cls: type, space: str, settings: dict) -> None:
    """A class is built anew for each temperature, where its constructor takes one and no setting says which."""
    parameters = signature_of(cls.__init__, skip_self=True)
    call.build_settings = {key: value for key, value in settings.items() if key in parameters}
    for key, parameter in parameters.items():
        if key in settings:
            continue
        # In a constructor there is no teacher to confuse with a small t.
        if _role(key, space) == "temperature" or key == "t":
            call.build, call.temperature_name = cls, key
        elif parameter.default is parameter.empty:
            raise AuditError(
                f"{cls.__name__}({', '.join(parameters)}): pass {key}=... to audit, or an object instead of the class"
            )
    if call.build is None:
        call.function = cls(**call.build_settings)


def signature_of(function: Callable, skip_self: bool = False) -> dict[str, inspect.Parameter]:
    try:
        parameters = list(inspect.signature(function).parameters.values())[1 if skip_self else 0 :]
    except (TypeError, ValueError):  # a built-in without a signature
        return {}
    return {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def takes_any_setting(function: Callable) -> bool:
    """Has it a **parameter?"""
    try:
        return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a built-in without a signature
        return False


def as_scalar(output, select: str | int | None) -> Tensor:
    """The loss in what a function returned: a tensor, a dict or list of terms (added up), or a tuple (its first)."""
    if select is not None:
        output = output[select]
    if isinstance(output, Mapping):
        output = sum(output.values())
    elif isinstance(output, tuple):
        output = output[0]
    elif isinstance(output, list):
        output = sum(output)
    if not isinstance(output, Tensor):
        raise AuditError(
            f"the loss returned {type(output).__name__}, wanted a torch.Tensor (a tuple, list or dict of them)"
        )
    return output
