"""Checks of notebook 01: temperature, the KD loss, what goes wrong in it, and how to choose T honestly."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.nn import functional as F

from .engine import Result, by_audit, by_choice, by_number, by_rubric
from .points import exercise

# --- 1. Recall ---


@exercise(1, "recall: very high temperatures", points=1)
def check_temperature_limit(answer: str) -> Result:
    """At a very high temperature, with T ** 2 in front, KD's gradient tends to that of ...

    a: zero. b: cross-entropy with the labels. c: matching centred logits. d: matching probabilities at T = 1.
    """
    return by_choice(
        answer,
        "c",
        {
            "a": "Without T ** 2 it would fade. What do the two factors 1 / T, one from each softmax, cancel with?",
            "b": "The labels are nowhere in KD. Expand exp(z / T) to first order in 1 / T.",
            "d": "At T = 1 nothing is softened. Expand exp(z / T) to first order in 1 / T.",
        },
    )


# --- 2. The loss from scratch ---

ORDER = ("student", "teacher", "temperature")
HINTS = {
    "mean_over_classes": "Too weak by the number of classes: sum over those first, then average over the samples.",
    "summed_over_batch": "Your loss doubles with the batch: take the mean over the samples.",
    "fixed_batch_size": "You divide by a fixed number, and a last batch may be smaller: ask the tensor for its length.",
    "t_squared_missing": "The gradient fades as T rises. By which power of T, and what in equation (1.2) mends it?",
    "t_once": "The gradient still fades as T rises: one factor T is not enough.",
    "reverse_kl": "The divergence runs the wrong way. Whose probabilities weigh the logarithm in equation (1.2)?",
    "networks_swapped": "All gradient goes to the teacher: student first, teacher second.",
    "mse_of_softmaxes": "You compare probabilities by squared error. Equation (1.2) has a logarithm of their quotient.",
    "mse_of_logits": "You compare logits. Soften both into probabilities first.",
    "student_log_missing": "F.kl_div wants the logarithm of the student's probabilities as its first argument.",
    "teacher_log_unexpected": "F.kl_div wants the teacher's probabilities themselves, unless log_target=True.",
    "softmax_over_batch": "Your softmax runs over the samples. Which dim holds the classes?",
    "student_not_softened": "The temperature is missing in the student's softmax.",
    "teacher_not_softened": "The temperature is missing in the teacher's softmax.",
    "temperature_fixed_at_1": "The temperature argument is not used.",
    "temperature_inverted": "Dividing by T softens; multiplying sharpens.",
    "wrong_sign": "Your loss falls as the student moves away from the teacher: check the sign.",
    "no_gradient": "No gradient reaches the student: something cuts the graph (.item(), .detach(), torch.tensor).",
}


@exercise(2, "write it: the KD loss", points=3)
def check_kd_loss(kd_loss: Callable[[Tensor, Tensor, float], Tensor]) -> Result:
    """kd_loss(student_logits, teacher_logits, temperature), equation (1.2)."""
    a_factor = ("t_squared_missing", "t_once", "mean_over_classes", "summed_over_batch", "fixed_batch_size")
    partial = {**dict.fromkeys(a_factor, 2), "reverse_kl": 1}
    return by_audit(kd_loss, "kd", HINTS, out_of=3, partial=partial, arguments=ORDER)


# --- 3. A bug to find ---


def broken_kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """The exercise's loss, with two mistakes that no error message points at."""
    log_p = F.log_softmax(student_logits / temperature, dim=1)
    target = F.softmax(teacher_logits / temperature, dim=1)
    return (target * (target.log() - log_p)).mean()


@exercise(3, "find the mistakes: by which factor?", points=1)
def check_diagnosis(too_weak_by: float, classes: int, temperature: float) -> Result:
    """By which factor is broken_kd_loss too weak, for so many classes and this temperature?"""
    also = "That is one of the two mistakes: the mean runs over the classes as well. What else is missing?"
    hints = {
        float(classes): also,
        float(temperature**2): "That is one of the two mistakes: T ** 2 is missing. Look at .mean() next.",
        float(classes * temperature): "Nearly: by which power of T does the gradient fade?",
        1 / (classes * temperature**2): "By which factor too *weak*: turn the number round.",
    }
    return by_number(too_weak_by, classes * temperature**2, hints)


@exercise(3, "find the mistakes: mend them", points=2)
def check_mended(kd_loss: Callable[[Tensor, Tensor, float], Tensor]) -> Result:
    """broken_kd_loss with both mistakes mended: a point for each."""
    partial = {"t_squared_missing": 1, "mean_over_classes": 1}
    return by_audit(kd_loss, "kd", HINTS, out_of=2, partial=partial, arguments=ORDER)


# --- 4. Gradient sizes ---


@exercise(4, "predict: the size of the gradient", points=1)
def check_gradient_ratio(answer: float) -> Result:
    """Without T ** 2, at high temperatures: by which factor does the gradient shrink when T doubles?"""
    return by_number(
        answer,
        4.0,
        {
            2.0: "One factor 2 comes from d(z / T) / dz. The difference of the probabilities shrinks as well.",
            0.25: "That is the new gradient over the old; the question asks by which factor it shrinks.",
            1.0: "That would hold with T ** 2 in front.",
            16.0: "Two factors of T, not four.",
        },
    )


# --- 5. An open experiment: which temperature? ---


@exercise(5, "experiment: which temperature?", points=6)
def check_temperatures(validation: Mapping[float, Sequence[float]], chosen: float, test_runs: int) -> Result:
    """{T: validation accuracies, one a seed}, the T you chose, and how often you looked at the test set."""
    means = {T: sum(values) / len(values) for T, values in validation.items() if len(values)}
    return by_rubric(
        [
            ("at least four temperatures", len(means) >= 4),
            ("T = 1 among them, for comparison", any(abs(T - 1) < 1e-9 for T in means)),
            ("at least two seeds for each", bool(means) and all(len(values) >= 2 for values in validation.values())),
            ("the same number of seeds for each", len({len(values) for values in validation.values()}) == 1),
            (
                "the chosen T is the one with the best mean on validation",
                bool(means) and chosen == max(means, key=means.get),
            ),
            ("the test set was looked at once, after choosing", test_runs == 1),
        ]
    )
