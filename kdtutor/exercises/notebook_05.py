"""Checks of notebook 05: what ranks do not see, Pearson's loss, ranks that are none, a block, which term for whom."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from kdtutor import losses

from .engine import Result, by_audit, by_choice, by_comparison, by_number, by_rubric
from .points import exercise

# --- 1. Recall ---


@exercise(1, "recall: what ranks do not see", points=1)
def check_blind_spot(answer: str) -> Result:
    """Which change of a student's logits always leaves true Spearman as it is, and Pearson not?

    a: 3 z + 5. b: exp(z). c: -z. d: softmax(z) with the two largest probabilities swapped.
    """
    return by_choice(
        answer,
        "b",
        {
            "a": "Pearson does not see that either: look at what equation (5.1) subtracts and divides by.",
            "c": "That turns the order round: both correlations change their sign.",
            "d": "Swapping two classes changes the order, and ranks are the order.",
        },
    )


# --- 2. The loss from scratch ---

HINTS = {
    "not_centered": "That is a cosine: subtract each row's mean first, equation (5.1).",
    "over_batch": "You correlate over the samples. Which dim holds the classes?",
    "over_everything": "One correlation for the whole batch: take one for each row, then the mean.",
    "of_probabilities": "You correlate softmax answers. Equation (5.1) correlates the logits themselves, row by row.",
    "unknown_loss": "Not a mistake known here. (5.1) correlates the logits themselves, not probabilities, row by row.",
    "scales_with_C": "Your loss grows with the number of classes: a mean over them is missing somewhere.",
    "squared_correlation": "Squared, the opposite answer is as good as the right one: use 1 - rho.",
    "summed_over_batch": "Your loss doubles with the batch: take the mean over the samples.",
    "networks_swapped": "All gradient goes to the teacher: student first, teacher second.",
    "wrong_sign": "Your loss falls as the student moves away from the teacher: 1 - rho.",
    "no_gradient": "No gradient reaches the student: something cuts the graph (.item(), .detach(), torch.tensor).",
}


@exercise(2, "write it: Pearson's loss", points=3)
def check_pearson_loss(pearson_loss: Callable[[Tensor, Tensor], Tensor]) -> Result:
    """pearson_loss(student_logits, teacher_logits): the mean of 1 - rho over the samples, equation (5.1)."""
    partial = {"summed_over_batch": 2, "not_centered": 1, "over_everything": 1}
    return by_audit(pearson_loss, "pearson", HINTS, out_of=3, partial=partial, arguments=("student", "teacher"))


# --- 3. A bug to find ---


def broken_spearman_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The exercise's loss: its ranks are none."""
    r_s = losses.soft_rank(student_logits.softmax(dim=1), regularization_strength=1.0)
    r_t = losses.soft_rank(teacher_logits.softmax(dim=1), regularization_strength=1.0)
    return 1 - losses.pearson_correlation(r_s, r_t).mean()


@exercise(3, "find the mistake: what is it really?", points=1)
def check_diagnosis(answer: str) -> Result:
    """What is broken_spearman_loss, exactly?

    a: Spearman of probabilities. b: Pearson of probabilities. c: Pearson of logits. d: a constant.
    """
    return by_choice(
        answer,
        "b",
        {
            "a": "It would be, if the soft ranks were ranks. How far apart are two probabilities, in units of 1.0?",
            "c": "Nearly: the classes do pool, and a straight line is left. A straight line of what?",
            "d": "Its gradient is not 0. All classes form one block; what is a soft rank within a block, by (5.6)?",
        },
    )


def _zscored(logits: Tensor, correction: int = 0) -> Tensor:
    return (logits - logits.mean(dim=1, keepdim=True)) / logits.std(dim=1, correction=correction, keepdim=True)


def _ranked(rank_of: Callable[[Tensor], Tensor], strength: float | None = None) -> Callable:
    """The loss that ranks `rank_of` the logits, at 3 / C or a fixed strength."""

    def loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        of_C = 3 / student_logits.shape[1] if strength is None else strength
        ranks = [losses.soft_rank(rank_of(logits), of_C) for logits in (student_logits, teacher_logits)]
        return 1 - losses.pearson_correlation(*ranks).mean()

    return loss


POOLED = "Still Pearson: at this strength all classes pool. The strength should be 3 / C."
FIXED = "Right for 10 classes alone: with more of them the z-scores lie closer. The strength should be 3 / C."
BROKEN = [
    (_ranked(lambda z: z.softmax(dim=1), 1.0), "Still Pearson of probabilities: most lie too close for any strength."),
    (_ranked(lambda z: z), "Raw logits come in any size, and the strength is in their units: z-score each row."),
    (
        _ranked(lambda z: z, 1.0),
        "You rank raw logits, whose size then decides how soft the ranks are: z-score each row.",
    ),
    (_ranked(_zscored, 1.0), POOLED),
    (_ranked(_zscored, 0.3), FIXED),
    (
        _ranked(lambda z: _zscored(z, correction=1)),
        "Very nearly: z-score with the population's standard deviation, 1 / C.",
    ),
    (lambda s, t: losses.spearman_correlation(s, t).mean(), "That is the correlation; the loss is 1 less that."),
    (lambda s, t: (1 - losses.spearman_correlation(s, t)).sum(), "The sum grows with the batch: take the mean."),
    (
        lambda s, t: 1 - losses.pearson_correlation(*(z.argsort(1).argsort(1).double() for z in (s, t))).mean(),
        "Those are true ranks, and through them no gradient passes: use losses.soft_rank.",
    ),
]


@exercise(3, "find the mistake: mend it", points=2)
def check_mended(spearman_loss: Callable[[Tensor, Tensor], Tensor]) -> Result:
    """broken_spearman_loss mended: soft Spearman of z-scored logits, strength 3 / C, for any number of classes."""
    g = torch.Generator().manual_seed(0)
    inputs = [tuple(3 * torch.randn(2, 6, classes, generator=g) + 1) for classes in (10, 25)]
    return by_comparison(spearman_loss, _ranked(_zscored), inputs, BROKEN)


# --- 4. A block by hand ---


@exercise(4, "a block by hand", points=1)
def check_block(answer: float) -> Result:
    """The soft rank of the first of (1.0, 0.9, -2.0) at strength 0.5."""
    return by_number(
        answer,
        2.6,
        {
            3.0: "That is its true rank. In (5.5), s - w = (-1, -0.2, -5) is not non-increasing: what is pooled?",
            2.5: "That is the block's mean rank, and the rank if the two were equal. What does (5.6) subtract from s?",
            2.4: "That is the soft rank of the second.",
            2.55: "Nearly: the values are divided by the strength first, equation (5.4).",
            -0.6: "That is v, the block's mean of s - w. The rank is s - v.",
        },
        tolerance=0.005,
    )


# --- 5. An open experiment: who should hard images favour? ---


@exercise(5, "experiment: which term for hard images?", points=6)
def check_directions(results: Mapping[str, Sequence[Mapping[str, float]]], expected: str) -> Result:
    """{"spearman", "pearson", "fixed", ...: [{"top1": ..., "spearman": ...}, one a seed]}, and what you expected."""
    rows = [row for runs in results.values() for row in runs]
    has = lambda name: bool(rows) and all(name in row for row in rows)  # noqa: E731
    return by_rubric(
        [
            ("what you expected, written before you ran it", len(str(expected).split()) >= 5),
            ('"spearman", "pearson" and "fixed", all three', {"spearman", "pearson", "fixed"} <= set(results)),
            ("at least two seeds for each", bool(results) and min(map(len, results.values())) >= 2),
            ("the same number of seeds for each", len({len(runs) for runs in results.values()}) == 1),
            ("top1 of each run, between 0 and 1", has("top1") and all(0 <= row["top1"] <= 1 for row in rows)),
            (
                "spearman of each run, the rank correlation with the teacher, between -1 and 1",
                has("spearman") and all(-1 <= row["spearman"] <= 1 for row in rows),
            ),
        ]
    )
