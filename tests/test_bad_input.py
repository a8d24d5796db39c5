"""A table of everything that cannot work: each is refused with the argument's name, before anything is computed.

What only a look at values would show (NaN, labels out of range) is not here: see `test_data.py` for where it is
checked, and below for what comes out of a loss.
"""

import copy
import inspect

import numpy as np
import pytest
import torch
from torch import Tensor

from kdtutor import data, losses, methods, models
from kdtutor.compare import Comparison
from kdtutor.reproduce import Reproduction
from kdtutor.settings import Settings

B, C, D, K = 6, 5, 4, 3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def labels(seed: int = 0) -> Tensor:
    return torch.randint(C, (B,), generator=torch.Generator().manual_seed(seed))


# --- Valid calls ---

LOGITS = {"student_logits": draw(B, C), "teacher_logits": draw(B, C, seed=1)}
FEATURES = {"student_features": draw(B, D), "teacher_features": draw(B, D + 2, seed=1)}
MIXED = {"labels": labels(), "permuted_labels": labels(1), "lam": 0.3}

VALID: dict[str, dict] = {
    "affinity_loss": {
        **FEATURES, "affinity": "cosine", "normalization": "row_softmax", "discrepancy": "kl", "tau": 0.5,
    },
    "class_centers": {"features": draw(B, D), "labels": labels(), "num_classes": C},
    "class_sums": {"features": draw(B, D), "labels": labels(), "num_classes": C},
    "cmkd_loss": {
        **LOGITS, "difficulty": "teacher_entropy", "difficulty_temperature": 4.0, "hard_samples_favor": "spearman",
        "dynamic": True, "regularization_strength": 0.3, "reduction": "none",
    },
    "dist_loss": {**LOGITS, "temperature": 4.0, "beta": 1.0, "gamma": 1.0},
    "dkd_loss": {**LOGITS, "labels": labels(), "alpha": 1.0, "beta": 8.0, "temperature": 4.0, "reduction": "none"},
    "interpolated_logits": {
        "teacher_logits": draw(B, C), "permuted_teacher_logits": draw(B, C, seed=1), "lam": 0.3, "temperature": 4.0,
    },
    "kd_loss": {**LOGITS, "temperature": 4.0, "reduction": "none"},
    "kernel_transfer_loss": {
        **FEATURES, "student_landmarks": draw(K, D, seed=2), "teacher_landmarks": draw(K, D + 2, seed=3),
        "scale_free": True,
    },
    "mixup": {"images": draw(B, 1, 4, 4), "labels": labels(), "alpha": 1.0, "generator": torch.Generator()},
    "mixup_cross_entropy": {"logits": draw(B, C), **MIXED, "reduction": "none"},
    "nystrom_kernel": {"features": draw(B, D), "landmarks": draw(K, D, seed=1), "kernel": "rbf", "gamma": 0.5},
    "pearson_correlation": {"a": draw(B, C), "b": draw(B, C, seed=1), "dim": 1},
    "rkd_angle_loss": FEATURES,
    "soft_rank": {"values": draw(B, C), "regularization_strength": 0.3},
    "sp_loss": FEATURES,
    "spearman_correlation": {"a": draw(B, C), "b": draw(B, C, seed=1), "regularization_strength": 0.3},
    "standardize_logits": {"logits": draw(B, C)},
    "stkd_loss": {**LOGITS, **MIXED, "temperature": 4.0, "weight": 0.9, "reduction": "none"},
}  # fmt: skip


# --- What can be wrong with an argument ---


def wrong_tensors(name: str, value: Tensor) -> dict[str, object]:
    """Values that no tensor argument takes."""
    wrong = {
        "None": None, "text": "logits", "number": 3.0, "list": value.tolist(), "numpy": value.numpy(),
        "complex": value.to(torch.complex64), "bool": value > 0,
    }  # fmt: skip
    if value.is_floating_point():
        return wrong | {"int64": value.long(), "uint8": value.to(torch.uint8), "no dimension": value.flatten()[0]}
    more = {
        "float": value.float(),
        "two columns": value[:, None],
        "one less": value[1:],
        "one more": torch.cat([value, value[:1]]),
    }
    return wrong | more | {"no dimension": value[0]}


SHAPES: dict[str, dict[str, object]] = {
    # of logits
    "logits": {"one dimension": lambda v: v[0], "three dimensions": lambda v: v[None], "no sample": lambda v: v[:0]},
    "pair of logits": {"one class less": lambda v: v[:, 1:], "one sample less": lambda v: v[1:]},
    # of features
    "features": {"one dimension": lambda v: v[0], "no sample": lambda v: v[:0], "no feature": lambda v: v[:, :0]},
    "pair of features": {"one sample less": lambda v: v[1:]},
    "landmarks": {
        "one dimension": lambda v: v[0], "three dimensions": lambda v: v[None], "none": lambda v: v[:0],
        "another width": lambda v: v[:, 1:],
    },
    "pair of landmarks": {"one less": lambda v: v[1:]},
    "same shape": {"one less": lambda v: v[1:], "another width": lambda v: v[:, 1:], "nothing": lambda v: v[:0]},
}  # fmt: skip
KINDS: dict[str, tuple[str, ...]] = {
    "student_logits": ("logits", "pair of logits"),
    "teacher_logits": ("logits", "pair of logits"),
    "permuted_teacher_logits": ("logits", "pair of logits"),
    "logits": ("logits",),
    "student_features": ("features", "pair of features"),
    "teacher_features": ("features", "pair of features"),
    "student_landmarks": ("landmarks", "pair of landmarks"),
    "teacher_landmarks": ("landmarks", "pair of landmarks"),
    "landmarks": ("landmarks",),
    "a": ("same shape",),
    "b": ("same shape",),
}
NOT_NUMBERS = {"None": None, "text": "4", "list": [4.0], "bool": True, "nan": float("nan"), "inf": float("inf")}
POSITIVE = NOT_NUMBERS | {"zero": 0.0, "negative": -1.0}
OPTIONAL = {what: bad for what, bad in POSITIVE.items() if what != "None"}
NON_NEGATIVE = NOT_NUMBERS | {"negative": -0.5}
FRACTION = NOT_NUMBERS | {"negative": -0.1, "above 1": 1.1}
COUNT = {"zero": 0, "negative": -1, "fraction": 2.5, "text": "5", "bool": True, "None": None}
CHOICE = {"unknown": "nothing of the kind", "empty": "", "None": None, "number": 3}
FLAG = {"text": "no", "None": None, "number": 1}
NUMBERS: dict[str, dict[str, object]] = {
    **dict.fromkeys(("temperature", "difficulty_temperature", "tau"), POSITIVE),
    "alpha": NON_NEGATIVE, "beta": NON_NEGATIVE, "weight": FRACTION, "lam": FRACTION, "num_classes": COUNT,
    **dict.fromkeys(("regularization_strength", "gamma"), OPTIONAL),
    **dict.fromkeys(
        ("affinity", "normalization", "discrepancy", "kernel", "difficulty", "hard_samples_favor"), CHOICE
    ),
    "reduction": CHOICE | {"mean": "mean", "sum": "sum"},
    "dynamic": FLAG, "scale_free": FLAG,
    "dim": {"text": "1", "fraction": 1.5, "None": None, "too large": 2, "too small": -3},
    "generator": {"text": "g", "number": 3, "numpy": np.random.default_rng(0)},
}  # fmt: skip
# Options of one function that others allow more, or less, of.
EXCEPTIONS = {("dist_loss", "gamma"): NON_NEGATIVE, ("mixup", "alpha"): POSITIVE}


def cases() -> list[tuple[str, str, str, object]]:
    """(function, argument, what is wrong, value)."""
    table = []
    for function, arguments in VALID.items():
        for name, value in arguments.items():
            wrong = EXCEPTIONS.get((function, name), NUMBERS.get(name))
            if wrong is None:
                wrong = wrong_tensors(name, value)
                if sum(isinstance(other, Tensor) for other in arguments.values()) > 1:
                    wrong = wrong | {"another device": value.to("meta")}
                kinds = () if function == "standardize_logits" else KINDS.get(name, ())  # which takes (..., C)
                for kind in kinds:
                    if kind.startswith("pair") and not _has_partner(name, arguments):
                        continue
                    wrong = wrong | {what: change(value) for what, change in SHAPES[kind].items()}
            table += [(function, name, what, bad) for what, bad in wrong.items()]
    return table


def _has_partner(name: str, arguments: dict) -> bool:
    return sum(other.split("_")[-1] == name.split("_")[-1] for other in arguments) > 1


CASES = cases()


@pytest.mark.parametrize("function", VALID)
def test_the_valid_calls_are_valid(function):
    assert set(VALID[function]) <= set(inspect.signature(getattr(losses, function)).parameters) | {"tau"}
    getattr(losses, function)(**VALID[function])


@pytest.mark.parametrize(("function", "argument", "what", "bad"), CASES, ids=[" ".join(case[:3]) for case in CASES])
def test_refused_by_name(function, argument, what, bad):
    arguments = {**VALID[function], argument: bad}
    before = {name: copy.deepcopy(value) for name, value in VALID[function].items() if isinstance(value, Tensor)}
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(losses, function)(**arguments)
    message = str(caught.value)
    named = VALID[function] if what == "another device" else [argument]  # one of two that must move
    assert any(name in message for name in named), message
    assert len(message) > len(argument) + 15
    for name, value in before.items():
        assert torch.equal(value, VALID[function][name])


def test_there_are_more_than_five_hundred():
    assert len({case[:3] for case in CASES}) == len(CASES)
    assert len(CASES) + len(SETTINGS_CASES) >= 500
    assert {case[0] for case in CASES} == {name for name in losses.__all__ if name.islower()}


# --- Settings, methods and models ---

SETTINGS = {
    "epochs": COUNT, "batch_size": COUNT | {"one": 1}, "lr": POSITIVE, "momentum": FRACTION,
    "weight_decay": NON_NEGATIVE, "schedule": CHOICE, "crop_padding": {k: v for k, v in COUNT.items() if k != "zero"},
    "views": {k: v for k, v in COUNT.items() if k != "None"}, "seed": {k: v for k, v in COUNT.items() if k != "zero"},
    "precision": CHOICE,
}  # fmt: skip
COMPARISON = {"seeds": COUNT, "student": CHOICE, "teacher": CHOICE, "at_once": COUNT}
METHODS = {
    "kd": {"weight": NON_NEGATIVE, "ce_weight": NON_NEGATIVE},
    "rkd": {"distance_weight": NON_NEGATIVE, "angle_weight": NON_NEGATIVE},
    "stkd": {"target": CHOICE},
    "affinity": {"affinity": CHOICE, "normalization": CHOICE, "discrepancy": CHOICE},
}
SETTINGS_CASES = [
    *[(Settings, name, what, bad) for name, wrong in SETTINGS.items() for what, bad in wrong.items()],
    *[(Comparison, name, what, bad) for name, wrong in COMPARISON.items() for what, bad in wrong.items()],
    *[
        (methods.METHODS[method], name, what, bad)
        for method, settings in METHODS.items() for name, wrong in settings.items() for what, bad in wrong.items()
    ],
]  # fmt: skip


@pytest.mark.parametrize(
    ("owner", "setting", "what", "bad"), SETTINGS_CASES, ids=[f"{c[0].__name__} {c[1]} {c[2]}" for c in SETTINGS_CASES]
)
def test_settings_are_refused_by_name(owner, setting, what, bad):
    with pytest.raises((TypeError, ValueError)) as caught:
        owner(**{setting: bad})
    assert setting in str(caught.value)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: methods.build("kdd"), "did you mean 'kd'"),
        (lambda: methods.build("kd(temprature=2)"), "did you mean 'temperature'"),
        (lambda: methods.build("kd(2)"), "method is 'kd(2)'"),
        (lambda: methods.build("kd - sp"), "method is 'kd - sp'"),
        (lambda: methods.build("kd(temperature=open('x'))"), "plain values"),
        (lambda: methods.build(""), "method is ''"),
        (lambda: methods.build(None), "method must be text"),
        (lambda: models.build("resnet33x4", 10), "did you mean 'resnet32x4'"),
        (lambda: data.load("fashion-mnsit"), "fashion-mnist"),
        (lambda: Comparison(methods=()), "methods is empty"),
        (lambda: Comparison(methods=("kd", "kd")), "twice"),
        (lambda: Comparison(data="cifar10"), "teacher 'base' knows Fashion-MNIST only"),
        (lambda: Reproduction(pair="a:b"), "pair is 'a'"),
    ],
)
def test_what_was_meant_is_named(call, named):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert named in str(caught.value)


# --- What is unusual and works ---

GRADIENTS = [name for name, arguments in VALID.items() if any(n.startswith("student") for n in arguments)]


def strange(value: Tensor, how: str) -> Tensor:
    """The same numbers, laid out in another way."""
    if how == "strided":
        return torch.stack([value, value], dim=-1)[..., 0]
    if how == "transposed":
        return value.T.contiguous().T if value.dim() == 2 else value
    return value.clone().requires_grad_() if value.is_floating_point() else value


@pytest.mark.parametrize("how", ["strided", "transposed", "with gradient"])
@pytest.mark.parametrize("function", [name for name in VALID if name != "mixup"])
def test_layout_does_not_matter(function, how):
    arguments = {n: strange(v, how) if isinstance(v, Tensor) else v for n, v in VALID[function].items()}
    ours, wanted = (getattr(losses, function)(**some) for some in (arguments, VALID[function]))
    torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("function", GRADIENTS)
def test_rows_that_are_one_row_repeated(function):
    """Zero-stride tensors, as expand makes them."""
    arguments = {
        n: v[:1].expand(v.shape) if isinstance(v, Tensor) and not n.endswith("landmarks") else v
        for n, v in VALID[function].items()
    }
    whole = {n: v.contiguous() if isinstance(v, Tensor) else v for n, v in arguments.items()}
    ours, wanted = (getattr(losses, function)(**some) for some in (arguments, whole))
    torch.testing.assert_close(ours, wanted)
    assert ours.isfinite().all()


@pytest.mark.parametrize("function", GRADIENTS)
def test_a_teacher_that_requires_a_gradient_gets_none(function):
    arguments = {
        n: v.clone().requires_grad_() if isinstance(v, Tensor) and v.is_floating_point() else v
        for n, v in VALID[function].items()
    }
    getattr(losses, function)(**arguments).sum().backward()
    for name, value in arguments.items():
        if isinstance(value, Tensor) and value.requires_grad:
            assert (value.grad is not None) == (name in ("student_logits", "student_features")), name


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("function", GRADIENTS)
def test_what_is_not_finite_shows_in_the_loss(function, bad):
    """Losses do not look at values, so that they need not wait for a GPU; the loop sees the NaN that comes out."""
    name = next(n for n in VALID[function] if n.startswith("student"))
    value = VALID[function][name].clone()
    value[1, 2] = bad
    assert not getattr(losses, function)(**{**VALID[function], name: value}).isfinite().all()
