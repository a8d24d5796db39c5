"""Checks of notebook 03: what cells ignore, RKD's distances, a wrong divergence, how many cells, a fair comparison."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .engine import Result, by_audit, by_choice, by_number, by_rubric
from .points import exercise

# --- 1. Recall ---


@exercise(1, "recall: what a cell cannot see", points=1)
def check_blind_spot(answer: str) -> Result:
    """You add one and the same vector to all of the student's features. Which loss does not change?

    a: SP. b: RKD-D. c: PKT. d: CC.
    """
    return by_choice(
        answer,
        "b",
        {
            "a": "SP is made of inner products, and <q_i + v, q_j + v> is another number than <q_i, q_j>.",
            "c": "PKT is made of cosines, which are angles seen from the origin. Moving all points changes them.",
            "d": "CC's kernel takes features of length 1, and moving all points changes their directions.",
        },
    )


# --- 2. A loss from its paper ---

RKD_HINTS = {
    "mean_of_all_entries": "Your mean counts the zeros of the diagonal. Equation (3.3) averages over i != j.",
    "mean_detached": "No gradient flows through the student's mean distance, so the loss pulls at the features' size.",
    "networks_swapped": "All gradient goes to the teacher: student first, teacher second.",
    "summed_over_pairs": "All B * B entries are summed. Take their mean.",
    "divided_by_batch_once": "The sum over B * B entries is divided by B once: take the mean.",
    "batch_divided_twice": "You take the mean over all entries, which divides by B squared, and divide again.",
    "wrong_sign": "Your loss falls as the student moves away from the teacher: check the sign.",
    "no_gradient": "No gradient reaches the student: something cuts the graph (.item(), .detach(), torch.tensor).",
    "unknown_loss": "Not (3.3), and none of the usual slips. Is it one mean for the whole matrix, over i != j?",
    "not_finite": "Not a finite number. The square root has slope infinity at 0: what do equal samples give?",
}


@exercise(2, "write it: RKD's distance loss", points=3)
def check_rkd_distance(rkd_distance: Callable[[Tensor, Tensor], Tensor]) -> Result:
    """rkd_distance(student_features, teacher_features) of (B, D) features, equation (3.3)."""
    partial = dict.fromkeys(
        ("mean_of_all_entries", "mean_detached", "summed_over_pairs", "divided_by_batch_once", "batch_divided_twice"), 2
    )
    return by_audit(rkd_distance, "rkd_distance", RKD_HINTS, out_of=3, partial=partial)


# --- 3. A bug to find ---

PKT_HINTS = {
    "reverse_kl": "The divergence still runs the wrong way. Whose probabilities weigh the logarithm in (3.4)?",
    "divided_by_batch_once": "Still a sum over each row: (3.4) is the mean over all B * B entries.",
    "summed_over_pairs": "All B * B entries are summed: (3.4) is their mean.",
    "batch_divided_twice": "A mean over all entries has divided by B squared already.",
    "networks_swapped": "All gradient goes to the teacher: student first, teacher second.",
}


def broken_pkt_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """The exercise's loss, with two mistakes that no error message points at."""

    def rows(features):
        unit = F.normalize(features, dim=1)
        similarities = (unit @ unit.T + 1) / 2
        return similarities / similarities.sum(dim=1, keepdim=True)

    s, t = rows(student_features), rows(teacher_features)
    return (s * ((s + 1e-7) / (t + 1e-7)).log()).sum(dim=1).mean()


@exercise(3, "find the mistakes: by which factor?", points=1)
def check_diagnosis(too_strong_by: float, batch_size: int) -> Result:
    """By which factor does the wrong reduction alone make broken_pkt_loss too strong?"""
    hints = {
        float(batch_size) ** 2: "The mean over rows divides by B already. What else is in the mean of (3.4)?",
        1 / batch_size: "By which factor too *strong*: turn the number round.",
        1.0: ".sum(dim=1).mean() is not .mean(): by what does each of them divide?",
    }
    return by_number(too_strong_by, batch_size, hints)


@exercise(3, "find the mistakes: mend them", points=2)
def check_mended(pkt_loss: Callable[[Tensor, Tensor], Tensor]) -> Result:
    """broken_pkt_loss with both mistakes mended: a point for each."""
    partial = {"reverse_kl": 1, "divided_by_batch_once": 1}
    result = by_audit(pkt_loss, "pkt", PKT_HINTS, out_of=2, partial=partial)
    if result.points == 1 and _equal(pkt_loss, broken_pkt_loss):
        return Result(0, 2, "Nothing is mended yet. Hold each line against (3.4): the logarithm, and the mean.")
    return result


def _equal(one: Callable, other: Callable) -> bool:
    features = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    return bool(torch.isclose(one(*features), other(*features), rtol=1e-4))


# --- 4. Counting ---


@exercise(4, "count the valid cells", points=1)
def check_cells(answer: int) -> Result:
    """How many cells have 6 affinities, 8 normalisations, 4 discrepancies, without those that kl refuses?"""
    return by_number(
        answer,
        154,
        {
            192: "6 * 8 * 4 counts the cells that kl refuses. Of the 48 with kl, how many have rows of probabilities?",
            144: "Those are the cells without kl. With it, two normalisations are left.",
            156: "Nearly: row_l1 makes probabilities of entries that are never negative. Which affinities are those?",
            150: "Nearly: row_softmax makes probabilities of any affinity.",
            152: "Nearly: distances are never negative either.",
            10: "Those are the cells with kl. The three other discrepancies take any matrix.",
        },
        tolerance=1e-6,
    )


# --- 5. An open experiment: two cells, fairly ---


@exercise(5, "experiment: two cells, fairly", points=7)
def check_fair_comparison(
    validation: Mapping[str, Sequence[float]], weights: Mapping[str, float], pulls: Mapping[str, float], expected: str
) -> Result:
    """Validation accuracies (one a seed), weight and pull at weight 1 of each cell, and what you expected."""
    names, runs = set(validation), [list(values) for values in validation.values()]
    complete = bool(names) and names <= set(weights) and names <= set(pulls)
    weighed = [float(weights[name]) * float(pulls[name]) for name in names] if complete else []
    return by_rubric(
        [
            ("what you expected, written before you ran it", len(str(expected).split()) >= 5),
            ("at least two cells of the framework", len(names - {"ce"}) >= 2),
            ('labels alone, "ce", for comparison', "ce" in names),
            ("at least two seeds for each", bool(runs) and min(map(len, runs)) >= 2),
            ("the same number of seeds for each", len({len(values) for values in runs}) == 1),
            ("accuracies as shares between 0 and 1", any(runs) and all(0 <= v <= 1 for run in runs for v in run)),
            (
                "weights that give all cells the same weight times pull, to within a factor of 2 "
                '(0 for "ce", which has neither)',
                _all_alike([value for name, value in zip(names, weighed, strict=False) if name != "ce"]),
            ),
        ]
    )


def _all_alike(values: Sequence[float]) -> bool:
    return len(values) >= 2 and min(values) > 0 and max(values) <= 2 * min(values)
