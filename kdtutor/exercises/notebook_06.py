"""Checks of notebook 06: when landmarks are exact, the loss, an epoch's centres, its weight, whose centres are good."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..losses import class_centers
from .engine import Result, by_audit, by_choice, by_comparison, by_number, by_rubric
from .points import exercise

# --- 1. Recall ---


@exercise(1, "recall: when it is exact", points=1)
def check_exact(answer: float) -> Result:
    """How many independent landmarks rebuild the linear kernel of 6,000 images of 10 classes, 96 features wide?"""
    return by_number(
        answer,
        96,
        {
            10: "Class centres come close with 10, but an image still has parts that no centre has.",
            6000: "That many always do. But what does (6.2) do to each x with the linear kernel, and what must the "
            "landmarks span?",
            600: "Images for each class play no part. Which space do the landmarks have to span?",
            960: "One set for each class is more than it takes: landmarks need not be of the image's class.",
        },
    )


# --- 2. The loss from scratch ---

HINTS = {
    "not_divided": "You sum, but do not divide by the Frobenius norm of T.",
    "divided_by_student": "You divide by the student's norm, which the student can raise. (6.6) has the teacher's.",
    "divided_by_spectral_norm": "Your norm is the largest singular value. The Frobenius norm is asked for.",
    "squared_error": "You compare by squared error: beyond a difference of 1, smooth L1 grows in a straight line.",
    "absolute_error": "You compare by absolute error: below a difference of 1, smooth L1 is half its square.",
    "features_normalized": "You normalise the features: (6.5) takes plain inner products.",
    "landmarks_rolled": "Row k of the student's landmarks meets another row of the teacher's.",
    "mean_over_entries": "You divide by the number of landmarks, as a mean does. (6.6) is a sum.",
    "divided_by_batch": "You divide by the batch size, as a mean does. (6.6) divides a sum by the norm of T alone.",
    "networks_swapped": "All gradient goes to the teacher: student first, teacher second.",
    "wrong_sign": "Your loss falls as the student moves away from the teacher: check the sign.",
    "no_gradient": "No gradient reaches the student: something cuts the graph (.item(), .detach(), torch.tensor).",
}


@exercise(2, "write it: the kernel loss", points=3)
def check_kernel_loss(loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Result:
    """loss(student_features, teacher_features, student_landmarks, teacher_landmarks), equation (6.6), or (6.9)."""
    a_factor = ("not_divided", "divided_by_spectral_norm", "mean_over_entries", "divided_by_batch")
    order = ("student", "teacher", "student_landmarks", "teacher_landmarks")
    return by_audit(loss, "kernel", HINTS, out_of=3, partial=dict.fromkeys(a_factor, 2), arguments=order)


# --- 3. A bug to find ---


def broken_centers(features: Tensor, labels: Tensor, num_classes: int, batch_size: int) -> Tensor:
    """The exercise's function: it averages averages."""
    of_batches = []
    for rows, own in zip(features.split(batch_size), labels.split(batch_size), strict=True):
        of_batches.append(torch.stack([rows[own == c].mean(dim=0) for c in range(num_classes)]))
    return torch.stack(of_batches).mean(dim=0)


@exercise(3, "find the mistake: its symptom", points=1)
def check_symptom(answer: str) -> Result:
    """What does the loss do with broken_centers, 100 classes and batches of 64?"""
    return by_choice(
        answer,
        "b",
        {
            "a": "How many of 100 classes can a batch of 64 hold? What is the mean of no rows at all?",
            "c": "A constant would need every batch to hold the same share of each class. Some hold none: what then?",
            "d": "It is with ten classes and large batches, nearly. Now take a class that a batch does not hold.",
        },
    )


def _absent_counts_as_zero(features, labels, num_classes, batch_size):
    parts = zip(features.split(batch_size), labels.split(batch_size), strict=True)
    return torch.stack([class_centers(rows, own, num_classes) for rows, own in parts]).mean(dim=0)


def _mean_of_batch_means(features, labels, num_classes, batch_size):
    parts = zip(features.split(batch_size), labels.split(batch_size), strict=True)
    centers = [torch.stack([rows[own == c].mean(dim=0) for c in range(num_classes)]) for rows, own in parts]
    return torch.stack(centers).nanmean(dim=0).nan_to_num()


def _equal_classes(features, labels, num_classes, batch_size):
    own = labels[None, :] == torch.arange(num_classes)[:, None]
    return own.to(features.dtype) @ features * num_classes / len(features)


def _sums(features, labels, num_classes, batch_size):
    return (labels[None, :] == torch.arange(num_classes)[:, None]).to(features.dtype) @ features


def _absent_is_nan(features, labels, num_classes, batch_size):
    return torch.stack([features[labels == c].mean(dim=0) for c in range(num_classes)])


@exercise(3, "find the mistake: mend it", points=2)
def check_centers(centers: Callable[[Tensor, Tensor, int, int], Tensor]) -> Result:
    """centers(features, labels, num_classes, batch_size) -> (num_classes, D), equation (6.4)."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for count, num_classes, batch_size in ((24, 4, 5), (50, 7, 8)):
        features = torch.randn(count, 3, generator=generator) + 1
        labels = torch.randint(num_classes - 1, (count,), generator=generator)  # the last class never comes up
        inputs.append((features, labels, num_classes, batch_size))
    mistakes = (
        (broken_centers, "A class that one batch lacks still gives NaN for the whole epoch."),
        (
            _absent_counts_as_zero,
            "A batch without a class counts as a mean of 0. Leave it out, or better: add up sums.",
        ),
        (_mean_of_batch_means, "You still take the mean of means: a batch with one shirt counts as one with ten."),
        (_equal_classes, "You divide by N / C: the classes of an epoch need not be equally large."),
        (_sums, "These are sums: divide each by how many images its class had."),
        (_absent_is_nan, "Right, but for the class that is nowhere in the epoch: zeros are wanted, not NaN."),
    )
    return by_comparison(
        _with_marked_nan(centers),
        lambda features, labels, num_classes, batch_size: class_centers(features, labels, num_classes),
        inputs,
        [(_with_marked_nan(wrong), hint) for wrong, hint in mistakes],
        out_of=2,
    )


def _with_marked_nan(function):
    """NaN equals nothing, itself neither: a number in its place can be compared."""
    if not callable(function):
        return function

    def marked(*arguments):
        answer = function(*arguments)
        return answer.nan_to_num(nan=1e6) if isinstance(answer, Tensor) else answer

    return marked


# --- 4. The weight ---


@exercise(4, "the published weight, elsewhere", points=1)
def check_weight(answer: float) -> Result:
    """.04 belongs to B = 256 and K = 100. Which weight pulls as strongly with B = 64 and K = 10?"""
    return by_number(
        answer,
        0.04 * 40**0.5,
        {
            0.04: "The loss is not as large for both: how many terms has the sum, and how large is the norm?",
            1.6: "Right if the loss grew with B K. The norm of T below it grows too.",
            0.04 / 40**0.5: "The other way round: with fewer terms the loss is smaller, so what must the weight be?",
            0.001: "The other way round, and the norm of T left out.",
            0.08: "You have changed the batch. K is another one as well.",
            0.04 * 10**0.5: "You have changed K. The batch is another one as well.",
        },
    )


# --- 5. An open experiment: whose class centres? ---


@exercise(5, "experiment: whose class centres?", points=7)
def check_sources(errors: Mapping[str, Mapping], expected: str) -> Result:
    """{source: {"class centres": error, "best": error, "random": [one for each draw]}}, and what you expected."""
    cells = list(errors.values())
    whole = bool(cells) and all({"class centres", "best", "random"} <= set(cell) for cell in cells)
    values = [v for cell in cells if whole for v in (cell["class centres"], cell["best"], *cell["random"])]
    return by_rubric(
        [
            ("what you expected, written before you ran it", len(str(expected).split()) >= 5),
            ("at least three sources of features", len(errors) >= 3),
            ("the raw pixels among them", any("pixel" in str(name).lower() for name in errors)),
            ('"class centres", "best" and "random" for each', whole),
            ("at least three random draws for each", whole and min(len(cell["random"]) for cell in cells) >= 3),
            ("relative errors between 0 and 1", bool(values) and all(0 <= v <= 1 for v in values)),
            (
                "no error below the best rank's, which nothing can beat",
                whole and all(cell["best"] <= 1.001 * min(cell["class centres"], *cell["random"]) for cell in cells),
            ),
        ]
    )
