"""Checks of notebook 02: what similarities ignore, the SP loss, a wrong norm, batch sizes, and how few labels do."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.nn import functional as F

from .engine import Result, by_audit, by_choice, by_number, by_rubric
from .points import exercise

# --- 1. Recall ---


@exercise(1, "recall: what the loss cannot see", points=1)
def check_blind_spot(answer: str) -> Result:
    """Which change of all the student's features, (B, D), leaves L_SP as it is, whatever they were?

    a: adding one vector to all. b: dividing each sample by its length. c: an orthogonal matrix R, Q R, times 7.
    d: shuffling the samples.
    """
    return by_choice(
        answer,
        "c",
        {
            "a": "<q_i + v, q_j + v> has three terms more than <q_i, q_j>. What leaves every inner product alone?",
            "b": "That gives cosines. Row i of (2.2) is divided by one number alone: longer samples still count more.",
            "d": "Then row i of the student's matrix belongs to another image than row i of the teacher's.",
        },
    )


# --- 2. The loss from scratch ---

HINTS = {
    "rows_l1": "Your rows' absolute values sum to 1. Length 1 in equation (2.2) means that their squares do.",
    "features_normalized": "You normalise the features. Equation (2.2) normalises the rows of the similarity matrix.",
    "pooled_first": "You average the maps over their pixels first. Flatten them: every pixel counts in (2.1).",
    "channels_normalized": "You normalise over dim 1 of the maps. Leave the features as they are until after (2.1).",
    "features_not_samples": "Your matrix relates features, (D, D). Which order of the product relates samples?",
    "student_rows_not_normalized": "Only the teacher's rows have length 1. Normalise the rows of both matrices.",
    "summed_over_pairs": "All B * B entries are summed: equation (2.3) divides by B squared.",
    "divided_by_batch_once": "Equation (2.3) divides by B squared, you divide by B.",
    "batch_divided_twice": "You take the mean over all entries, which divides by B squared, and divide again.",
    "networks_swapped": "All gradient goes to the teacher: student first, teacher second.",
    "wrong_sign": "Your loss falls as the student moves away from the teacher: check the sign.",
    "no_gradient": "No gradient reaches the student: something cuts the graph (.item(), .detach(), torch.tensor).",
}


@exercise(2, "write it: the SP loss", points=3)
def check_sp_loss(sp_loss: Callable[[Tensor, Tensor], Tensor]) -> Result:
    """sp_loss(student_features, teacher_features) of (B, channels, H, W) maps, equations (2.1) to (2.3)."""
    a_factor = ("summed_over_pairs", "divided_by_batch_once", "batch_divided_twice")
    partial = {**dict.fromkeys(a_factor, 2), "rows_l1": 2, "features_normalized": 1, "pooled_first": 1}
    return by_audit(sp_loss, "sp", HINTS, out_of=3, partial=partial)


# --- 3. A bug to find ---


def broken_sp_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """The exercise's loss: one argument is not what its writer took it for."""
    Q_s, Q_t = student_features.flatten(1), teacher_features.flatten(1)
    G_s = F.normalize(Q_s @ Q_s.T, 1)
    G_t = F.normalize(Q_t @ Q_t.T, 1)
    return (G_t - G_s).square().mean()


@exercise(3, "find the mistake: by which factor?", points=1)
def check_diagnosis(too_weak_by: float, batch_size: int) -> Result:
    """By about which factor is broken_sp_loss too weak, if all similarities are of about the same size?"""
    hints = {
        float(batch_size) ** 0.5: "By that factor each entry of G is too small. The loss squares their differences.",
        float(batch_size) ** 2: "The mean over B squared entries is right. What does F.normalize(G, 1) do to a row?",
        1 / batch_size: "By which factor too *weak*: turn the number round.",
        1.0: "What is the second argument of F.normalize? Compare a row of B equal numbers with what it should be.",
    }
    return by_number(too_weak_by, batch_size, hints)


@exercise(3, "find the mistake: mend it", points=2)
def check_mended(sp_loss: Callable[[Tensor, Tensor], Tensor]) -> Result:
    """broken_sp_loss with its mistake mended."""
    return by_audit(sp_loss, "sp", HINTS, out_of=2)


# --- 4. Weight and batch size ---


@exercise(4, "a weight for another batch", points=1)
def check_weight(answer: float) -> Result:
    """A weight of 3000 suits a batch of 128. Which one pulls about as strongly with a batch of 32?"""
    return by_number(
        answer,
        750.0,
        {
            12000.0: "The other way round: per equation (2.5), is L_SP larger or smaller in a smaller batch?",
            3000.0: "L_SP is not the same for both: equation (2.5) and the figure above say how it changes with B.",
            187.5: "Right if L_SP went with 1 / B squared. But it sums over B rows: what is left of B squared?",
            1500.0: "The batch is four times as small, not twice.",
        },
    )


# --- 5. An open experiment: how few labels? ---


@exercise(5, "experiment: how few labels?", points=7)
def check_few_labels(accuracies: Mapping[int, Mapping[str, Sequence[float]]], expected: str) -> Result:
    """{labels per class: {"untrained": [...], "SP": [...]}}, an accuracy for each draw; and what you expected."""
    cells = [list(values) for by_student in accuracies.values() for values in by_student.values()]
    both = bool(accuracies) and all({"untrained", "SP"} <= set(by_student) for by_student in accuracies.values())
    return by_rubric(
        [
            ("what you expected, written before you ran it", len(str(expected).split()) >= 5),
            ("at least three numbers of labels per class", len(accuracies) >= 3),
            ("one of them 5 or fewer", any(count <= 5 for count in accuracies)),
            ('both students, "untrained" and "SP", for each', both),
            ("at least three draws of the labelled images for each", bool(cells) and min(map(len, cells)) >= 3),
            ("the same number of draws everywhere", len({len(values) for values in cells}) == 1),
            (
                "accuracies as shares between 0 and 1",
                any(cells) and all(0 <= value <= 1 for values in cells for value in values),
            ),
        ]
    )
