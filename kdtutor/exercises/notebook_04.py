"""Checks of notebook 04: lam's ends, the STKD loss, labels that left their images, calibration, which target."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .engine import Result, by_audit, by_choice, by_number, by_rubric
from .points import exercise

# --- 1. Recall ---


@exercise(1, "recall: what the teacher is asked", points=1)
def check_target(answer: str) -> Result:
    """With target "interpolated", which of these can the student never learn from the teacher?

    a: how sure it is of a clean image. b: which wrong classes a clean image resembles. c: that a blend looks like
    a class that neither image resembles. d: the share lam of each image.
    """
    return by_choice(
        answer,
        "c",
        {
            "a": "At lam = 1 the target (4.4) is the clean answer itself.",
            "b": "The clean answers are softened by T before they are blended: their wrong classes stay in.",
            "d": "Equation (4.4) weighs the two answers by lam and 1 - lam.",
        },
    )


# --- 2. The loss from scratch ---

ORDER = ("student", "teacher", "labels", "permuted_labels", "lam", "temperature")
HINTS = {
    "lam_swapped": "The image's own label gets 1 - lam in your loss. Equation (4.2): lam belongs to the own label.",
    "partner_ignored": "Your cross-entropy knows one label. A virtual image has two: equation (4.2).",
    "lam_unused": "Both labels weigh the same in your loss, whatever lam is: equation (4.2).",
    "teacher_answers_permuted": "The teacher has answered on the virtual images: its rows stay where they are.",
    "reverse_kl": "The divergence runs the wrong way. Whose probabilities weigh the logarithm in equation (4.3)?",
    "networks_swapped": "All gradient goes to the teacher: student first, teacher second.",
    "t_squared_missing": "T ** 2 is missing from the second term of equation (4.3).",
    "t_once": "The second term still fades as T rises: one factor T is not enough.",
    "weights_swapped": "The two weights of equation (4.3) stand the wrong way round: w belongs to the teacher.",
    "mean_over_classes": "A term is too weak by the number of classes: sum over those, then average over samples.",
    "summed_over_batch": "Your loss doubles with the batch: take the mean over the samples.",
    "part_missing": "A part of equation (4.3) is missing: it has a cross-entropy, and a divergence.",
    "wrong_sign": "Your loss falls as the student moves away from the teacher: check the sign.",
    "no_gradient": "No gradient reaches the student: something cuts the graph (.item(), .detach(), torch.tensor).",
}


@exercise(2, "write it: the STKD loss", points=3)
def check_stkd_loss(stkd_loss: Callable[..., Tensor]) -> Result:
    """stkd_loss(student_logits, teacher_logits, labels, permuted_labels, lam, temperature), (4.3) with w = .9."""
    a_factor = ("t_squared_missing", "t_once", "mean_over_classes", "summed_over_batch")
    partial = {**dict.fromkeys(a_factor, 2), "lam_swapped": 1, "reverse_kl": 1, "weights_swapped": 1}
    return by_audit(stkd_loss, "stkd", HINTS, out_of=3, partial=partial, arguments=ORDER)


# --- 3. A bug to find ---

MIXING = {
    "labels_permuted_differently": "The labels' partners are still not the images' partners: draw one permutation.",
    "lam_swapped": "lam weighs the wrong label now. It belongs to `labels`, as it belongs to `images`.",
    "other_lam": "The lam you return is not the one that blended the images.",
    "fixed_permutation": "Your permutation is the same in every call: draw a fresh one.",
    "never_mixed": "Every image comes back as it was: where is the partner?",
    "inputs_changed": "You write into the images you were given: make a new tensor.",
    "not_a_blend": "The two weights must sum to 1.",
    "lam_distribution": "lam should be uniform here: Beta(1, 1).",
}


def broken_mixup(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """The exercise's function: what does the share 1 - lam of every target say?"""
    lam = float(torch.rand(()))
    mixed = lam * images + (1 - lam) * images[torch.randperm(len(images))]
    return mixed, labels, labels[torch.randperm(len(images))], lam


@exercise(3, "find the mistake: how much of the target is noise?", points=1)
def check_noise(answer: float) -> Result:
    """Which share of the mixed labels' weight goes, on average, to a label that is not in the image?

    Ten equally frequent classes, lam uniform, partners drawn at random, both times with large batches.
    """
    return by_number(
        answer,
        0.405,
        {
            0.5: "That share is drawn anew, but by luck it can name one of the two classes that are in the image.",
            0.45: "Nearly: by luck the label can name either of the two classes that are in the image, not only one.",
            0.9: "That is how often it is wrong about the partner. It only has the weight 1 - lam.",
            0.81: "That is how often a random label is neither class. It only has the weight 1 - lam, 1/2 on average.",
            0.4: "Nearly: the image and its partner can be of the same class, then 9 in 10 labels are wrong.",
        },
        tolerance=0.005,
    )


@exercise(3, "find the mistake: mend it", points=2)
def check_mended(mixup: Callable) -> Result:
    """broken_mixup with its mistake mended: (images, labels) -> mixed images, labels, permuted labels, lam."""
    return by_audit(mixup, "mixup", MIXING, out_of=2)


# --- 4. Signed calibration ---


@exercise(4, "signed calibration", points=1)
def check_gap(answer: float) -> Result:
    """Two halves of the answers: confidence .9 and accuracy .8; confidence .5 and accuracy .6. Signed gap, (4.5)?"""
    return by_number(
        answer,
        0.0,
        {
            0.1: "That is the expected calibration error (4.6), which drops the signs. (4.5) keeps them.",
            -0.1: "That is the second half alone.",
            0.2: "Average over all answers, do not add the halves up.",
        },
    )


# --- 5. An open experiment: which target? ---


@exercise(5, "experiment: which target?", points=6)
def check_targets(results: Mapping[str, Sequence[Mapping[str, float]]], expected: str) -> Result:
    """{"kd", "virtual", "interpolated", ...: [{"top1": ..., "overconfidence": ...}, one a seed]}; what you expected."""
    rows = [row for runs in results.values() for row in runs]
    has = lambda name: bool(rows) and all(name in row for row in rows)  # noqa: E731
    return by_rubric(
        [
            ("what you expected, written before you ran it", len(str(expected).split()) >= 5),
            ('"kd", "virtual" and "interpolated", all three', {"kd", "virtual", "interpolated"} <= set(results)),
            ("at least two seeds for each", bool(results) and min(map(len, results.values())) >= 2),
            ("the same number of seeds for each", len({len(runs) for runs in results.values()}) == 1),
            ("top1 of each run, between 0 and 1", has("top1") and all(0 <= row["top1"] <= 1 for row in rows)),
            (
                "the signed overconfidence of each run, between -1 and 1",
                has("overconfidence") and all(-1 <= row["overconfidence"] <= 1 for row in rows),
            ),
        ]
    )
