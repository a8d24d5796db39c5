"""What holds for every loss: gradients, half precision, compilation, determinism, no synchronisation, clear errors.

CASES names every loss with each of its options and every valid cell of the affinity framework, and the functions
that losses are built of. What a loss computes is examined in the other files of this folder.
"""

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdtutor import losses
from kdtutor.losses.correlation import _blocks_by_min_max

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
CLASSES, STUDENT_WIDTH, TEACHER_WIDTH = 5, 6, 8


@dataclass(frozen=True)
class Case:
    """A function of (student, teacher, labels): two (B, C) logits, or features of two widths."""

    name: str
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    takes: str  # "logits" or "features"
    detaches: bool = True  # False for what losses are built of: a correlation, a rank
    blocking: bool = False  # True where torch itself waits for the device: a pseudo-inverse, no part of a step

    def total(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return self.loss(student, teacher, labels).sum()


def on_logits(name, function, **options):
    return Case(name, lambda s, t, y: function(s, t, **options), "logits")


def on_labelled_logits(name, function, **options):
    return Case(name, lambda s, t, y: function(s, t, y, **options), "logits")


def stkd(name, lam, **options):
    return Case(name, lambda s, t, y: losses.stkd_loss(s, t, y, y.flip(0), lam(s), **options), "logits")


def on_features(name, function, **options):
    return Case(name, lambda s, t, y: function(s, t, **options), "features")


def landmarks(width, like):
    """Three fixed, independent landmarks, of numbers that every dtype knows."""
    waves = torch.linspace(0, 30, 3 * width, device=like.device).sin().reshape(3, width)
    return ((8 * waves).round() / 8).to(like.dtype)


def kernel_transfer(s, t, y, **options):
    return losses.kernel_transfer_loss(s, t, landmarks(s.shape[1], s), landmarks(t.shape[1], t), **options)


def nystrom(s, t, y, **options):
    cross, core = losses.nystrom_kernel(s, landmarks(s.shape[1], s), **options)
    with torch.autocast(s.device.type, enabled=False):
        return cross @ core @ cross.T


def is_cell(affinity, normalization, discrepancy):
    stochastic = normalization == "row_softmax" or (normalization == "row_l1" and affinity not in ("inner", "cosine"))
    return discrepancy != "kl" or stochastic


MODULES = itertools.product(losses.AFFINITIES, losses.NORMALIZATIONS, losses.DISCREPANCIES)
CELLS = [
    on_features(
        "-".join(cell),
        losses.affinity_loss,
        **dict(zip(("affinity", "normalization", "discrepancy"), cell, strict=True)),
    )
    for cell in MODULES
    if is_cell(*cell)
]
CASES = [
    on_logits("kd", losses.kd_loss),
    on_logits("kd, T 1", losses.kd_loss, temperature=1),
    on_logits("kd, T 20, per sample", losses.kd_loss, temperature=20.0, reduction="none"),
    Case(
        "kd of standardised logits",
        lambda s, t, y: losses.kd_loss(*map(losses.standardize_logits, (s, t)), 2.0),
        "logits",
    ),
    on_labelled_logits("dkd", losses.dkd_loss),
    on_labelled_logits("dkd, target part", losses.dkd_loss, beta=0.0, temperature=1.0),
    on_labelled_logits("dkd, other part, per sample", losses.dkd_loss, alpha=0.0, reduction="none"),
    stkd("stkd", lambda s: 0.3),
    stkd("stkd, lam 1, per sample", lambda s: 1, reduction="none"),
    stkd("stkd, lam a tensor, T 1", lambda s: s.new_full((), 0.75), temperature=1.0, weight=0.5),
    Case(
        "stkd, interpolated target",
        lambda s, t, y: losses.stkd_loss(s, losses.interpolated_logits(t, t.flip(0), 0.3), y, y.flip(0), 0.3),
        "logits",
    ),
    on_logits("cmkd", losses.cmkd_loss),
    on_logits("cmkd, static, per sample", losses.cmkd_loss, dynamic=False, reduction="none"),
    on_logits("cmkd, student entropy", losses.cmkd_loss, difficulty="student_entropy", difficulty_temperature=1.0),
    on_logits("cmkd, margin, turned", losses.cmkd_loss, difficulty="teacher_margin", hard_samples_favor="pearson"),
    on_logits("cmkd, strength .05", losses.cmkd_loss, regularization_strength=0.05),
    on_logits("cmkd, strength 1000", losses.cmkd_loss, regularization_strength=1e3),
    on_logits("dist", losses.dist_loss),
    on_logits("dist, T 1, unequal", losses.dist_loss, temperature=1.0, beta=2.0, gamma=0.5),
    on_features("sp", losses.sp_loss),
    on_features("rkd angle", losses.rkd_angle_loss),
    Case("kernel transfer", kernel_transfer, "features"),
    Case("kernel transfer, scale free", partial(kernel_transfer, scale_free=True), "features"),
    *(on_features(f"preset {name}", losses.affinity_loss, **preset) for name, preset in losses.PRESETS.items()),
    on_features("rbf, exact", losses.affinity_loss, affinity="rbf", gamma=2.0, order=None),
    on_features("rbf, order 5", losses.affinity_loss, affinity="rbf", gamma=1.0, order=5),
    on_features(
        "softmax of cosines, tau .1",
        losses.affinity_loss,
        affinity="cosine",
        normalization="row_softmax",
        discrepancy="kl",
        tau=0.1,
    ),
    *CELLS,
    # What losses are built of.
    Case("standardize", lambda s, t, y: losses.standardize_logits(s) ** 3, "logits", detaches=False),
    Case(
        "mixup cross-entropy",
        lambda s, t, y: losses.mixup_cross_entropy(s, y, y.flip(0), 0.3),
        "logits",
        detaches=False,
    ),
    Case("interpolated", lambda s, t, y: losses.interpolated_logits(s, t, 0.3), "logits", detaches=False),
    Case("interpolated, lam 1", lambda s, t, y: losses.interpolated_logits(s, t, 1.0), "logits", detaches=False),
    Case("soft rank", lambda s, t, y: losses.soft_rank(s).square(), "logits", detaches=False),
    Case("soft rank, strength .1", lambda s, t, y: losses.soft_rank(s, 0.1).square(), "logits", detaches=False),
    Case("pearson", lambda s, t, y: losses.pearson_correlation(s, t), "logits", detaches=False),
    Case("pearson, columns", lambda s, t, y: losses.pearson_correlation(s, t, dim=0), "logits", detaches=False),
    Case("spearman", lambda s, t, y: losses.spearman_correlation(s, t), "logits", detaches=False),
    Case("spearman, strength 3", lambda s, t, y: losses.spearman_correlation(s, t, 3.0), "logits", detaches=False),
    Case("class centers", lambda s, t, y: losses.class_centers(s, y, CLASSES), "features", detaches=False),
    Case("nystrom, linear", nystrom, "features", detaches=False, blocking=True),
    Case("nystrom, rbf", partial(nystrom, kernel="rbf"), "features", detaches=False, blocking=True),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def draw(case, B=6, dtype=torch.float64, device="cpu", seed=0):
    """Random student, teacher and labels for a case."""
    generator = torch.Generator().manual_seed(seed)
    widths = (CLASSES, CLASSES) if case.takes == "logits" else (STUDENT_WIDTH, TEACHER_WIDTH)
    student, teacher = (torch.randn(B, width, generator=generator, dtype=torch.float64) for width in widths)
    labels = torch.randint(CLASSES, (B,), generator=generator)
    return student.to(device, dtype), teacher.to(device, dtype), labels.to(device)


def value_and_gradient(case, student, teacher, labels, autocast=None):
    student = student.detach().requires_grad_()
    with torch.autocast(student.device.type, autocast, enabled=autocast is not None):
        total = case.total(student, teacher, labels)
    (grad,) = torch.autograd.grad(total, student)
    return total.detach(), grad


# --- Gradients ---


def has_constant_weights(case):
    """Its weights follow the student, and are constants to the gradient: test_cmkd_weights_pass_no_gradient."""
    return case.name == "cmkd, student entropy"


@pytest.mark.parametrize("case", [case for case in CASES if not has_constant_weights(case)], ids=lambda case: case.name)
def test_gradient_is_the_derivative(case):
    student, teacher, labels = draw(case, B=4)
    if case.detaches:
        assert torch.autograd.gradcheck(lambda s: case.loss(s, teacher, labels), (student.requires_grad_(),))
    else:
        inputs = (student.requires_grad_(), teacher.requires_grad_())
        assert torch.autograd.gradcheck(lambda s, t: case.loss(s, t, labels) + 0 * t.sum(), inputs)


@every_case
def test_no_gradient_reaches_the_teacher(case):
    student, teacher, labels = draw(case)
    case.total(student.requires_grad_(), teacher.requires_grad_(), labels).backward()
    assert student.grad.abs().max() > 0
    if case.detaches:
        assert teacher.grad is None


# --- Half precision and edge inputs ---


def dead_rows(x):
    x = x.clone()
    x[1::3] = 0
    return x


def nothing(x):
    return torch.zeros_like(x)


def full_scale(x):
    return x * (LARGEST[x.shape[1]] / x.abs().max())


def all_large(x):
    return torch.full_like(x, LARGEST[x.shape[1]])


def constant_rows(x):
    return x[:, :1].expand_as(x) * 0.1


def same_sample(x):
    return x[:1].expand_as(x)


def near_twins(x):
    near = torch.ones(len(x), 1, dtype=x.dtype)
    near[-1] += 1e-3
    return x[: max(1, len(x) // 2)].repeat(2, 1)[: len(x)] * near


def sure(x):
    return torch.nn.functional.one_hot(x.argmax(dim=1), x.shape[1]) * LARGEST[x.shape[1]]


def same(x):
    return x


LARGEST = {CLASSES: 1e4, STUDENT_WIDTH: 1e3, TEACHER_WIDTH: 1e3}
EDGES = {  # name: what is done to the student's values, and to the teacher's
    "random": (same, same),
    "full scale": (full_scale, full_scale),
    "student at full scale": (full_scale, same),
    "teacher at full scale": (same, full_scale),
    "all large": (all_large, all_large),
    "both dead": (nothing, nothing),
    "dead student": (nothing, same),
    "dead teacher": (same, nothing),
    "some dead rows": (dead_rows, lambda x: dead_rows(x.flip(0))),
    "dead rows at full scale": (lambda x: dead_rows(full_scale(x)), full_scale),
    "constant rows": (constant_rows, constant_rows),
    "constant student": (constant_rows, same),
    "constant teacher": (same, constant_rows),
    "one sample, many times": (same_sample, same_sample),
    "student collapsed": (same_sample, same),
    "teacher collapsed": (same, same_sample),
    "near twins": (near_twins, near_twins),
    "sure of one class": (sure, sure),
    "sure teacher": (same, sure),
    "tiny": (lambda x: 1e-3 * x, lambda x: 1e-3 * x),
}


def edge_inputs(case, dtype, device):
    for name, (of_student, of_teacher) in EDGES.items():
        for B in (6, 1) if name in ("random", "full scale", "both dead", "all large") else (6,):
            student, teacher, labels = draw(case, B)
            student, teacher = of_student(student).to(device, dtype), of_teacher(teacher).to(device, dtype)
            yield f"{name}, batch of {B}", student, teacher, labels.to(device)
    student, teacher, labels = draw(case, dtype=dtype, device=device)
    yield "one class", student, teacher, torch.zeros_like(labels)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@every_case
def test_half_precision_is_finite_and_right(case, dtype, device):
    autocast_dtype = torch.bfloat16 if dtype is torch.float32 else dtype
    for edge, student, teacher, labels in edge_inputs(case, dtype, device):
        value, grad = value_and_gradient(case, student, teacher, labels, autocast_dtype)
        assert value.dtype == torch.float32, edge
        assert value.isfinite(), f"{edge}: {value}"
        if grad.isfinite().all() and edge != "random, batch of 6":
            continue
        exact, exact_grad = value_and_gradient(case, student.double(), teacher.double(), labels)
        # A gradient in the student's dtype can be no larger than that dtype's largest number.
        representable = exact_grad.abs() < 0.9 * torch.finfo(dtype).max
        assert grad[representable].isfinite().all(), f"{edge}: {grad}"
        if edge == "random, batch of 6":
            assert value.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-6), edge
            tolerance = 8 * torch.finfo(dtype).eps if dtype is not torch.float32 else 1e-3
            smallest = 1e-4 * exact_grad.abs().max().item() + 1e-7  # and fp16 knows little below 1e-7
            torch.testing.assert_close(grad.double(), exact_grad, rtol=tolerance, atol=smallest)


@every_case
def test_nan_in_gives_nan_out(case):
    for B in (6, 1):
        student, teacher, labels = draw(case, B)
        student[0, 2] = torch.nan
        assert case.total(student, teacher, labels).isnan(), f"NaN in the student was lost, batch of {B}"
        if case.detaches:
            student, teacher, labels = draw(case, B)
            teacher[0, 2] = torch.nan
            assert case.total(student, teacher, labels).isnan(), f"NaN in the teacher was lost, batch of {B}"


# --- Determinism and inputs ---


@pytest.mark.parametrize("device", DEVICES)
@every_case
def test_same_bits_twice_and_inputs_left_alone(case, device):
    inputs = draw(case, B=33, dtype=torch.float32, device=device)
    before = [value.clone() for value in inputs]
    first, second = (value_and_gradient(case, *inputs) for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, inputs, before))


# --- Compilation ---


def compiled_cases(cases, backend, device="cpu", autocast=False):
    """All cases in one graph, so that one compilation serves them all: value and gradient, eager and compiled."""
    inputs = draw(cases[0], device=device, dtype=torch.float32)

    def totals(student, teacher, labels):
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            return torch.stack([case.total(student, teacher, labels) for case in cases])

    results = []
    for function in (totals, torch.compile(totals, fullgraph=True, backend=backend)):
        student = inputs[0].clone().requires_grad_()
        values = function(student, *inputs[1:])
        weights = 1 / values.detach().abs().clamp(min=1e-3)  # so that every case shows in the gradient
        (grad,) = torch.autograd.grad(values, student, weights)
        results.append((values.detach(), grad))
    torch._dynamo.reset()
    return results


@pytest.fixture(autouse=True, scope="module")
def leave_no_compiled_graphs():
    yield
    torch._dynamo.reset()


SOME_CELLS = CELLS[::7]  # modules meet by composition alone, so enough cells to have each module in several
NAMED_CASES = [case for case in CASES if case not in CELLS]


def test_some_cells_hold_every_module():
    parts = [set(part) for part in zip(*(case.name.split("-") for case in SOME_CELLS), strict=True)]
    assert parts == [set(losses.AFFINITIES), set(losses.NORMALIZATIONS), set(losses.DISCREPANCIES)]


@pytest.mark.parametrize(
    ("takes", "autocast"),
    [("logits", False), ("features", False), ("features", True)],
    ids=["logits", "features", "features under autocast"],
)
def test_every_case_compiles_without_a_break(takes, autocast):
    cases = [case for case in NAMED_CASES + SOME_CELLS * (not autocast) if case.takes == takes]
    (values, grad), (compiled_values, compiled_grad) = compiled_cases(cases, "aot_eager", autocast=autocast)
    for case, value, compiled_value in zip(cases, values.tolist(), compiled_values.tolist(), strict=True):
        assert compiled_value == pytest.approx(value, rel=1e-4, abs=1e-6), case.name
    torch.testing.assert_close(compiled_grad, grad, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "cl"))), reason="inductor needs a C++ compiler")
def test_inductor_agrees():
    cases = [case for case in CASES if case.name in ("kd", "cmkd", "dist")]
    (values, grad), (compiled_values, compiled_grad) = compiled_cases(cases, "inductor")
    torch.testing.assert_close(compiled_values, values, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(compiled_grad, grad, rtol=1e-3, atol=1e-4)


# --- No synchronisation ---


class NoSynchronisation(TorchDispatchMode):
    """Refuses every operator whose answer, or the shape of whose answer, the host must wait for."""

    WAITING = frozenset(
        f"aten::{name}"
        for name in (
            "_local_scalar_dense",
            "item",
            "is_nonzero",
            "equal",
            "nonzero",
            "masked_select",
            "_unique",
            "_unique2",
            "unique_consecutive",
            "unique_dim",
            "bincount",
            "repeat_interleave",
        )
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        assert name not in self.WAITING, f"{name} makes the host wait"
        if name.startswith("aten::index"):
            indices = tree_leaves(args[1])
            has_mask = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)
            assert not has_mask, f"{name} with a mask makes the host wait"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x * x.sum().item(),
        lambda x: x * float(x.max()),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x if (x > 0).any() else -x,
        lambda x: x[(x > 0).nonzero()[:, 0]],
    ],
)
def test_the_instrument_sees_synchronisation(waits):
    with pytest.raises(AssertionError, match="makes the host wait"), NoSynchronisation():
        waits(torch.linspace(-1, 1, 5))


@pytest.mark.parametrize("case", [case for case in CASES if not case.blocking], ids=lambda case: case.name)
def test_nothing_waits_for_the_device(case):
    inputs = draw(case)
    with NoSynchronisation():
        value_and_gradient(case, *inputs)


@every_case
def test_no_value_is_needed_to_know_every_shape(case):
    with FakeTensorMode():  # tensors without values: to ask for one is an error
        student, teacher = (torch.empty(6, 5) if case.takes == "logits" else torch.empty(6, w) for w in (6, 8))
        labels = torch.empty(6, dtype=torch.long)
        total, grad = value_and_gradient(case, student, teacher, labels)
        assert total.shape == () and grad.shape == student.shape


def test_the_accelerators_way_to_rank_does_not_wait():
    y = torch.randn(4, 9, dtype=torch.float64)
    with NoSynchronisation():
        _blocks_by_min_max(y)
    with FakeTensorMode():
        assert _blocks_by_min_max(torch.empty(4, 9)).shape == (4, 9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_does_not_wait():
    for case in CASES:
        if case.blocking:
            continue
        inputs = draw(case, dtype=torch.float32, device="cuda")
        value_and_gradient(case, *inputs)  # libraries may wait while they start
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            value_and_gradient(case, *inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")


# --- Imports ---


def test_losses_import_torch_and_nothing_else():
    code = """if True:
        import json, sys
        import torch
        with_torch = set(sys.modules)
        import kdtutor.losses
        print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - with_torch})))
    """
    added = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert [name for name in added if name not in sys.stdlib_module_names and name != "torch"] == ["kdtutor"]


# --- Errors: each names the argument and what it got ---


def refuses(call, error, *fragments):
    with pytest.raises(error) as caught:
        call()
    missing = [fragment for fragment in fragments if fragment not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


x = partial(torch.ones, dtype=torch.float32)
six_labels = torch.zeros(6, dtype=torch.long)

LOSSES_ON_LOGITS = {
    "kd": losses.kd_loss,
    "dkd": lambda s, t: losses.dkd_loss(s, t, six_labels),
    "stkd": lambda s, t: losses.stkd_loss(s, t, six_labels, six_labels, 0.5),
    "cmkd": losses.cmkd_loss,
    "dist": losses.dist_loss,
}
LOSSES_ON_FEATURES = {
    "sp": losses.sp_loss,
    "affinity": losses.affinity_loss,
    "rkd angle": losses.rkd_angle_loss,
    "kernel": lambda s, t: losses.kernel_transfer_loss(s, t, x(3, 5), x(3, 5)),
}
BAD_PAIRS = [  # {} stands for "logits" or "features"
    (x(6, 5).long(), x(6, 5), TypeError, "student_{}", "torch.int64"),
    (x(6, 5), x(6, 5).int(), TypeError, "teacher_{}", "torch.int32"),
    (x(6, 5) > 0, x(6, 5), TypeError, "student_{}", "torch.bool"),
    (x(6, 5), x(6, 5) + 1j, TypeError, "teacher_{}", "torch.complex64"),
    ([[1.0, 2.0]], x(6, 5), TypeError, "student_{}", "list"),
    (x(6, 5), None, TypeError, "teacher_{}", "NoneType"),
    (x(6), x(6, 5), ValueError, "student_{}", "(6,)"),
    (x(6, 5), x(()), ValueError, "teacher_{}", "()"),
    (x(6, 5), x(4, 5), ValueError, "teacher_{}", "4", "student_{}", "6"),
    (x(0, 5), x(0, 5), ValueError, "student_{}", "(0, 5)", "empty"),
    (x(6, 5), x(6, 5, device="meta"), ValueError, "teacher_{}", "meta", "student_{}", "cpu"),
    (x(6, 5, device="meta"), x(6, 5), ValueError, "teacher_{}", "cpu", "student_{}", "meta"),
]
BAD_LOGITS = [
    (x(6, 5, 2), x(6, 5), ValueError, "student_logits", "(6, 5, 2)"),
    (x(6, 100), x(6, 10), ValueError, "teacher_logits has 10 classes", "student_logits 100"),
    (x(6, 1), x(6, 1), ValueError, "student_logits", "1 class"),
]
BAD_FEATURES = [(x(6, 0), x(6, 5), ValueError, "student_features", "(6, 0)")]


@pytest.mark.parametrize(
    ("loss", "what", "bad"),
    [(loss, "logits", bad) for loss in LOSSES_ON_LOGITS.values() for bad in BAD_PAIRS + BAD_LOGITS]
    + [(loss, "features", bad) for loss in LOSSES_ON_FEATURES.values() for bad in BAD_PAIRS + BAD_FEATURES],
)
def test_tensors_that_do_not_fit(loss, what, bad):
    student, teacher, error, *fragments = bad
    refuses(lambda: loss(student, teacher), error, *(fragment.format(what) for fragment in fragments))


def kernel_loss(student_landmarks, teacher_landmarks):
    return losses.kernel_transfer_loss(x(6, 5), x(6, 8), student_landmarks, teacher_landmarks)


def stkd_loss(**changes):
    arguments = dict(
        student_logits=x(6, 5), teacher_logits=x(6, 5), labels=six_labels, permuted_labels=six_labels, lam=0.5
    )
    return losses.stkd_loss(**arguments | changes)


def affinity_loss(*cell, **options):
    return losses.affinity_loss(x(6, 5), x(6, 8), *cell, **options)


TAKES_LABELS = {
    "dkd": ("labels", lambda y: losses.dkd_loss(x(6, 5), x(6, 5), y)),
    "stkd": ("labels", lambda y: stkd_loss(labels=y)),
    "stkd, permuted": ("permuted_labels", lambda y: stkd_loss(permuted_labels=y)),
    "mixup": ("labels", lambda y: losses.mixup(x(6, 1, 2, 2), y)),
    "class centers": ("labels", lambda y: losses.class_centers(x(6, 5), y, 5)),
}


@pytest.mark.parametrize(("name", "call"), TAKES_LABELS.values(), ids=TAKES_LABELS)
@pytest.mark.parametrize(
    ("labels", "error", "fragment"),
    [
        ([0] * 6, TypeError, "list"),
        (x(6), TypeError, "torch.float32"),
        (x(6) > 0, TypeError, "torch.bool"),
        (six_labels[:4], ValueError, "(4,)"),
        (torch.zeros(6, 5, dtype=torch.long), ValueError, "(6, 5)"),
        (six_labels.to("meta"), ValueError, "meta"),
    ],
)
def test_labels_that_do_not_fit(name, call, labels, error, fragment):
    refuses(lambda: call(labels), error, name, fragment)


TAKES_A_NUMBER = [
    ("positive", "temperature", lambda v: losses.kd_loss(x(6, 5), x(6, 5), v)),
    ("positive", "temperature", lambda v: losses.dkd_loss(x(6, 5), x(6, 5), six_labels, temperature=v)),
    ("positive", "temperature", lambda v: stkd_loss(temperature=v)),
    ("positive", "temperature", lambda v: losses.dist_loss(x(6, 5), x(6, 5), v)),
    ("positive", "temperature", lambda v: losses.interpolated_logits(x(6, 5), x(6, 5), 0.5, v)),
    ("positive", "difficulty_temperature", lambda v: losses.cmkd_loss(x(6, 5), x(6, 5), difficulty_temperature=v)),
    ("positive", "regularization_strength", lambda v: losses.soft_rank(x(6, 5), v)),
    ("positive", "alpha", lambda v: losses.mixup(x(6, 5), six_labels, v)),
    ("positive", "tau", lambda v: affinity_loss("cosine", "row_softmax", "kl", tau=v)),
    ("positive", "gamma", lambda v: affinity_loss("rbf", gamma=v)),
    ("not negative", "alpha", lambda v: losses.dkd_loss(x(6, 5), x(6, 5), six_labels, alpha=v)),
    ("not negative", "beta", lambda v: losses.dkd_loss(x(6, 5), x(6, 5), six_labels, beta=v)),
    ("not negative", "beta", lambda v: losses.dist_loss(x(6, 5), x(6, 5), beta=v)),
    ("not negative", "gamma", lambda v: losses.dist_loss(x(6, 5), x(6, 5), gamma=v)),
    ("fraction", "weight", lambda v: stkd_loss(weight=v)),
    ("fraction", "lam", lambda v: stkd_loss(lam=v)),
    ("fraction", "lam", lambda v: losses.mixup_cross_entropy(x(6, 5), six_labels, six_labels, v)),
    ("fraction", "lam", lambda v: losses.interpolated_logits(x(6, 5), x(6, 5), v)),
    # None is an answer to these: the default that follows the number of classes, or of features.
    (
        "positive or None",
        "regularization_strength",
        lambda v: losses.cmkd_loss(x(6, 5), x(6, 5), regularization_strength=v),
    ),
    ("positive or None", "regularization_strength", lambda v: losses.spearman_correlation(x(6, 5), x(6, 5), v)),
    ("positive or None", "gamma", lambda v: losses.nystrom_kernel(x(6, 5), x(3, 5), "rbf", v)),
]
OUT_OF_RANGE = {
    "positive": [0, 0.0, -1.5],
    "positive or None": [0, 0.0, -1.5],
    "not negative": [-1, -1e-9],
    "fraction": [-0.25, 1.25, -1, 2],
}


@pytest.mark.parametrize(("kind", "name", "call"), TAKES_A_NUMBER)
def test_numbers_out_of_range(kind, name, call):
    for value in [*OUT_OF_RANGE[kind], float("nan"), float("inf"), -float("inf")]:
        refuses(lambda v=value: call(v), ValueError, name, str(value))
    for value in ("4", True, [4.0], *([] if kind.endswith("None") else [None])):
        refuses(lambda v=value: call(v), TypeError, name, type(value).__name__)


KNOWN_NAMES = [
    ("affinity", "iner", "'inner'", lambda v: affinity_loss(v)),
    ("normalization", "rowl2", "'row_l2'", lambda v: affinity_loss("inner", v)),
    ("discrepancy", "smoothl1", "'smooth_l1'", lambda v: affinity_loss("inner", "none", v)),
    ("kernel", "linaer", "'linear'", lambda v: losses.nystrom_kernel(x(6, 5), x(3, 5), v)),
    ("difficulty", "teacher_entrpy", "'teacher_entropy'", lambda v: losses.cmkd_loss(x(6, 5), x(6, 5), v)),
    (
        "hard_samples_favor",
        "spaerman",
        "'spearman'",
        lambda v: losses.cmkd_loss(x(6, 5), x(6, 5), hard_samples_favor=v),
    ),
    ("reduction", "batchmaen", "'batchmean'", lambda v: losses.kd_loss(x(6, 5), x(6, 5), reduction=v)),
    ("reduction", "nonne", "'none'", lambda v: losses.dkd_loss(x(6, 5), x(6, 5), six_labels, reduction=v)),
    ("reduction", "batch_mean", "'batchmean'", lambda v: stkd_loss(reduction=v)),
    ("reduction", "None", "'none'", lambda v: losses.cmkd_loss(x(6, 5), x(6, 5), reduction=v)),
]


@pytest.mark.parametrize(("name", "misspelt", "near", "call"), KNOWN_NAMES)
def test_unknown_names(name, misspelt, near, call):
    refuses(lambda: call(misspelt), ValueError, name, repr(misspelt), "did you mean", near)
    refuses(lambda: call("zzz"), ValueError, name, "'zzz'", "choose one of", near.strip("'"))
    for value in (None, 3, ["inner"]):
        refuses(lambda v=value: call(v), ValueError, name, repr(value))


@pytest.mark.parametrize("call", [call for name, _, _, call in KNOWN_NAMES if name == "reduction"])
def test_reduction_mean_is_refused_with_its_reason(call):
    refuses(lambda: call("mean"), ValueError, "reduction", "'mean'", "batchmean", "number of classes")


REFUSED = {
    "tau without row_softmax": (lambda: affinity_loss("cosine", "row_l2", "mse", tau=2.5), ValueError, "tau", "2.5"),
    "gamma without rbf": (lambda: affinity_loss("cosine", gamma=0.75), ValueError, "gamma", "0.75", "rbf"),
    "order of a callable": (lambda: affinity_loss(lambda f: f @ f.T, order=3), ValueError, "order", "3"),
    "an unknown option": (lambda: affinity_loss("rbf", sigma=0.75), ValueError, "sigma", "0.75"),
    "order 0": (lambda: affinity_loss("rbf", order=0), ValueError, "order", "0"),
    "order 2.5": (lambda: affinity_loss("rbf", order=2.5), TypeError, "order", "2.5"),
    "kl of vectors": (lambda: affinity_loss("inner", "row_l2", "kl"), ValueError, "discrepancy 'kl'", "'row_l2'"),
    "kl of signed rows": (lambda: affinity_loss("cosine", "row_l1", "kl"), ValueError, "affinity 'cosine'", "'row_l1'"),
    "gamma of a linear kernel": (
        lambda: losses.nystrom_kernel(x(6, 5), x(3, 5), gamma=0.75),
        ValueError,
        "gamma",
        "0.75",
        "'linear'",
    ),
    "nothing for beta to do": (
        lambda: losses.dkd_loss(x(6, 2), x(6, 2), six_labels, beta=8.0),
        ValueError,
        "student_logits",
        "2 classes",
        "beta",
        "8.0",
    ),
    "landmarks too narrow": (lambda: kernel_loss(x(3, 4), x(3, 8)), ValueError, "student_landmarks", "(3, 4)", "5"),
    "landmarks without rows": (lambda: kernel_loss(x(3, 5), x(0, 8)), ValueError, "teacher_landmarks", "(0, 8)"),
    "landmarks of one dimension": (lambda: kernel_loss(x(5), x(3, 8)), ValueError, "student_landmarks", "(5,)"),
    "unequal landmarks": (lambda: kernel_loss(x(3, 5), x(4, 8)), ValueError, "teacher_landmarks", "4", "3"),
    "integer landmarks": (lambda: kernel_loss(x(3, 5).int(), x(3, 8)), TypeError, "student_landmarks", "torch.int32"),
    "landmarks elsewhere": (
        lambda: kernel_loss(x(3, 5), x(3, 8, device="meta")),
        ValueError,
        "teacher_landmarks",
        "meta",
    ),
    "nystrom, feature maps": (lambda: losses.nystrom_kernel(x(6, 5, 2), x(3, 5)), ValueError, "features", "(6, 5, 2)"),
    "nystrom, integers": (lambda: losses.nystrom_kernel(x(6, 5).int(), x(3, 5)), TypeError, "features", "torch.int32"),
    "nystrom, other width": (lambda: losses.nystrom_kernel(x(6, 5), x(3, 4)), ValueError, "landmarks", "(3, 4)"),
    "nystrom, elsewhere": (
        lambda: losses.nystrom_kernel(x(6, 5), x(3, 5, device="meta")),
        ValueError,
        "landmarks",
        "meta",
    ),
    "centers of maps": (lambda: losses.class_centers(x(6, 5, 2), six_labels, 5), ValueError, "features", "(6, 5, 2)"),
    "centers of no class": (lambda: losses.class_centers(x(6, 5), six_labels, 0), ValueError, "num_classes", "0"),
    "centers of 2.0 classes": (lambda: losses.class_centers(x(6, 5), six_labels, 2.0), TypeError, "num_classes", "2.0"),
    "lam for each sample": (lambda: stkd_loss(lam=x(6)), ValueError, "lam", "(6,)"),
    "integer lam": (lambda: stkd_loss(lam=torch.tensor(1)), TypeError, "lam", "torch.int64"),
    "lam elsewhere": (lambda: stkd_loss(lam=x((), device="meta")), ValueError, "lam", "meta"),
    "mixup of integers": (lambda: losses.mixup(x(6, 5).byte(), six_labels), TypeError, "images", "torch.uint8"),
    "mixup of nothing": (lambda: losses.mixup(x(0, 5), six_labels[:0]), ValueError, "images", "(0, 5)"),
    "mixed logits, 3-dim": (
        lambda: losses.mixup_cross_entropy(x(6, 5, 2), six_labels, six_labels, 0.5),
        ValueError,
        "logits",
        "(6, 5, 2)",
    ),
    "unequal answers": (
        lambda: losses.interpolated_logits(x(6, 5), x(4, 5), 0.5),
        ValueError,
        "permuted_teacher_logits",
        "(4, 5)",
        "(6, 5)",
    ),
    "answers elsewhere": (
        lambda: losses.interpolated_logits(x(6, 5), x(6, 5, device="meta"), 0.5),
        ValueError,
        "permuted_teacher_logits",
        "meta",
    ),
    "one class to standardise": (lambda: losses.standardize_logits(x(6, 1)), ValueError, "logits", "(6, 1)"),
    "integers to standardise": (lambda: losses.standardize_logits(x(6, 5).int()), TypeError, "logits", "torch.int32"),
    "rank of integers": (lambda: losses.soft_rank(x(6, 5).int()), TypeError, "values", "torch.int32"),
    "rank of a number": (lambda: losses.soft_rank(x(())), ValueError, "values", "()"),
    "rank of nothing": (lambda: losses.soft_rank(x(6, 0)), ValueError, "values", "(6, 0)"),
    "pearson, shapes": (lambda: losses.pearson_correlation(x(6, 5), x(6, 4)), ValueError, "(6, 5)", "b (6, 4)"),
    "pearson, dim": (lambda: losses.pearson_correlation(x(6, 5), x(6, 5), dim=2), ValueError, "dim", "2"),
    "pearson, elsewhere": (
        lambda: losses.pearson_correlation(x(6, 5), x(6, 5, device="meta")),
        ValueError,
        "b is on meta",
    ),
    "spearman, shapes": (lambda: losses.spearman_correlation(x(6, 5), x(5, 6)), ValueError, "(6, 5)", "b (5, 6)"),
    "spearman, integers": (lambda: losses.spearman_correlation(x(6, 5).int(), x(6, 5)), TypeError, "a ", "torch.int32"),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
def test_arguments_that_cannot_work(refused):
    refuses(*refused)
