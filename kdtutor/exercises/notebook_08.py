"""Checks of notebook 08: what proves a loss, a divergence, three mistakes to name, a factor, a loss of one's own."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import methods
from .engine import Result, by_choice, by_comparison, by_number, by_rubric
from .points import exercise

# --- 1. Recall ---


@exercise(1, "recall: what is evidence?", points=1)
def check_evidence(answer: str) -> Result:
    """What convinces that an implementation is a published loss?

    a: it falls. b: the student gets better. c: it is 0 at the teacher's answer only. d: its gradients are one
    constant times the definition's.
    """
    return by_choice(
        answer,
        "d",
        {
            "a": "All five losses of the first picture fall, and four of them are wrong.",
            "b": "Any pull towards a good teacher helps. What would tell you which pull it was?",
            "c": "So is squared error of softmax answers, and the reverse divergence. What else must agree?",
        },
    )


# --- 2. Another divergence ---


def _js(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """The Jensen-Shannon divergence of each image's softened answers, times T squared: (B,)."""
    p_s, p_t = ((z / temperature).softmax(dim=1) for z in (student_logits, teacher_logits))
    middle = (p_s + p_t) / 2
    of_student, of_teacher = ((p * (p.log() - middle.log())).sum(dim=1) for p in (p_s, p_t))
    return temperature**2 * (of_student + of_teacher) / 2


def _kl_to_middle(student_logits, teacher_logits, temperature):
    p_s, p_t = ((z / temperature).softmax(dim=1) for z in (student_logits, teacher_logits))
    middle = (p_s + p_t) / 2
    of_student, of_teacher = ((middle * (middle.log() - p.log())).sum(dim=1) for p in (p_s, p_t))
    return (temperature**2 * (of_student + of_teacher) / 2).mean()


def _middle_of_logits(student_logits, teacher_logits, temperature):
    log_s, log_t = ((z / temperature).log_softmax(dim=1) for z in (student_logits, teacher_logits))
    log_m = ((student_logits + teacher_logits) / (2 * temperature)).log_softmax(dim=1)
    of_student, of_teacher = ((log_p.exp() * (log_p - log_m)).sum(dim=1) for log_p in (log_s, log_t))
    return (temperature**2 * (of_student + of_teacher) / 2).mean()


def _symmetric_kl(student_logits, teacher_logits, temperature):
    log_s, log_t = ((z / temperature).log_softmax(dim=1) for z in (student_logits, teacher_logits))
    return temperature**2 * ((log_s.exp() - log_t.exp()) * (log_s - log_t)).sum(dim=1).mean() / 2


@exercise(2, "write it: a Jensen-Shannon loss", points=3)
def check_js_loss(loss: Callable[[Tensor, Tensor, float], Tensor]) -> Result:
    """loss(student_logits, teacher_logits, temperature): T squared times JS, the mean over images."""
    generator = torch.Generator().manual_seed(0)
    inputs = [(*2 * torch.randn(2, B, C, generator=generator), T) for B, C, T in ((3, 4, 2.0), (5, 10, 4.0))]
    mistakes = (
        (lambda s, t, T: _js(s, t, T), "You return one number for each image. Their mean is asked for."),
        (lambda s, t, T: _js(s, t, T).sum(), "You take the sum over the images, not their mean."),
        (lambda s, t, T: _js(s, t, T).mean() / s.shape[1], "You take the mean over the classes too: sum over them."),
        (lambda s, t, T: _js(s, t, T).mean() / T**2, "Times T squared: without it the loss fades as T grows."),
        (lambda s, t, T: 2 * _js(s, t, T).mean(), "Both divergences count one half."),
        (lambda s, t, T: T**2 * _js(s, t, 1.0).mean(), "The answers are not softened: divide the logits by T."),
        (
            _kl_to_middle,
            "Your divergences are KL(m || p), and KL(p || m) is asked for. F.kl_div's first is the log of m.",
        ),
        (_middle_of_logits, "You average the logits. The middle is that of the probabilities."),
        (_symmetric_kl, "That compares the two with each other, both ways. Compare each with the middle m."),
    )
    return by_comparison(loss, lambda s, t, T: _js(s, t, T).mean(), inputs, mistakes, out_of=3)


# --- 3. Mistakes to name ---


def case_a(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """The exercise's first loss."""
    p_s, p_t = (F.softmax(z / temperature, dim=1) for z in (student_logits, teacher_logits))
    return temperature**2 * F.kl_div(p_t.log(), p_s, reduction="batchmean")


def case_b(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """The second."""
    log_p_s = F.log_softmax(student_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p_s, F.softmax(teacher_logits, dim=1), reduction="batchmean")


def case_c(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """The third."""
    log_p_s = F.log_softmax(student_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p_s, F.softmax(teacher_logits / temperature, dim=1), reduction="sum")


CASES = {
    "a": ("reverse_kl", "Case a: which of the two answers is the log, F.kl_div's first argument?"),
    "b": ("teacher_not_softened", "Case b: follow the temperature. Does it reach both networks?"),
    "c": ("summed_over_batch", "Case c: what becomes of the loss when the batch is twice as large?"),
}


@exercise(3, "find the mistakes: name them", points=3)
def check_codes(codes: Mapping[str, str]) -> Result:
    """{"a": code, "b": code, "c": code}: what the audit calls the mistake of each case."""
    if not isinstance(codes, Mapping):
        return Result(0, 3, f'Answer with {{"a": code, "b": code, "c": code}}; this is a {type(codes).__name__}.')
    missing = [hint for case, (code, hint) in CASES.items() if str(codes.get(case, "")).strip() != code]
    how = " The audit tells: print(audit(case_a, kind='kd'))."
    return Result(3 - len(missing), 3, " ".join(missing) + how if missing else "")


# --- 4. A factor ---


@exercise(4, "how much too weak?", points=1)
def check_weakness(answer: float) -> Result:
    """By which factor is a gradient too weak that lacks T squared and is averaged over 100 classes, at T = 4?"""
    return by_number(
        answer,
        1600,
        {
            100: "That is the classes alone. What does the missing T squared take?",
            16: "That is T squared alone. What does averaging over 100 classes take?",
            400: "T, but not squared.",
            116: "Two factors multiply.",
            1 / 1600: "By which factor too *weak*: turn the number round.",
            6400: "KD's own gradient has a T below it, from z / T, and the mistaken one has it as well: it cancels.",
        },
    )


# --- 5. An open experiment: a loss of one's own ---


@exercise(5, "experiment: a loss of your own", points=7)
def check_own_loss(loss: Callable, name: str, results, expected: str) -> Result:
    """The loss as a function, its name in METHODS, what `compare` returned, and what was expected."""
    finite, pulls_student_alone, zero = _behaviour(loss)
    students = getattr(results, "students", None)
    compared = set() if students is None else set(students["method"])
    own = {spec for spec in compared if name and str(spec).startswith(str(name))}
    seeds = 0 if students is None else students.groupby("method")["seed"].nunique().min()
    return by_rubric(
        [
            ("what you expected, written before you ran it", len(str(expected or "").split()) >= 5),
            ("a loss that is finite, with its gradient, also for logits of size 50", finite),
            ("a gradient for the student, and none for the teacher", pulls_student_alone),
            ("its least value where student and teacher agree", zero),
            ("its name in methods.METHODS, and not one of kdtutor's own", name in methods.METHODS and name not in OURS),
            ('a comparison of it with "ce" and "kd"', bool(own) and {"ce", "kd"} <= compared),
            ("at least two seeds", seeds >= 2),
        ]
    )


OURS = frozenset(methods.METHODS)  # as they are before anybody registers another


def _behaviour(loss: Callable) -> tuple[bool, bool, bool]:
    """Is it finite, does it pull the student alone, is it least at the teacher's answer? All False if it cannot run."""
    generator = torch.Generator().manual_seed(0)
    try:
        student, teacher = torch.randn(2, 6, 5, generator=generator)
        student, teacher = student.requires_grad_(), teacher.requires_grad_()
        value = loss(student, teacher, 4.0)
        of_student, of_teacher = torch.autograd.grad(value, (student, teacher), allow_unused=True)
        alone = of_student is not None and bool(of_student.abs().sum() > 0) and of_teacher is None
        far = (50 * student.detach()).requires_grad_()
        (steep,) = torch.autograd.grad(loss(far, 50 * teacher.detach().flip(0), 1.0), far)
        finite = bool(value.isfinite()) and bool(steep.isfinite().all())
        here = teacher.detach().clone().requires_grad_()
        agreed = loss(here, teacher.detach(), 4.0)
        (slope,) = torch.autograd.grad(agreed, here)
        others = [teacher.detach() + torch.randn(6, 5, generator=generator) for _ in range(5)]
        least = all(float(agreed.detach()) < float(loss(other, teacher.detach(), 4.0)) for other in others)
        flat = bool(slope.norm() < 0.01 * of_student.norm()) if of_student is not None else False
        return finite, alone, least and flat
    except Exception:  # whatever the reader's function raises
        return False, False, False
