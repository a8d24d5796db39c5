"""Losses on relations between samples: every cell of the affinity framework, and RKD's angles."""

import math
from functools import cache

from torch import Tensor
from torch.nn import functional as F

from kdtutor import losses
from kdtutor.losses import AFFINITIES, DISCREPANCIES, NORMALIZATIONS, PRESETS
from kdtutor.losses.affinity import MODULES, inner, mse, preset_of, row_l2, smooth_l1, valid_cells

from ..inputs import Inputs
from .base import SAMPLE_LAWS, Kind, Known, Law, Loss

LAWS = (
    Law("B", 2, "summed_over_pairs", "the B * B entries are summed, not averaged", "divide by B ** 2"),
    Law(
        "B",
        1,
        "divided_by_batch_once",
        "the sum over B * B entries is divided by B and not by B ** 2, so the loss grows with the batch",
        "divide by B ** 2 (or use the mean over all entries)",
    ),
    *(law for law in SAMPLE_LAWS if law.power < 0),
    Law("B", -2, "batch_divided_twice", "a mean over all entries is divided by B ** 2 again", "take the mean once"),
)
NAMES = {
    "sp": "SP, equations (2.1) to (2.3)",
    "rkd_distance": "RKD-D",
    "pkt": "PKT",
    "cc": "CC",
    "cosine_gram": "the cosine Gram",
}


def cell_loss(cell: dict, **options) -> Loss:
    return _cell_loss(*cell.values(), *options.items())


@cache  # one function for each cell, so that its gradients are computed once for all kinds that look at it
def _cell_loss(affinity: str, normalization: str, discrepancy: str, *options: tuple) -> Loss:
    return lambda x: losses.affinity_loss(x.student, x.teacher, affinity, normalization, discrepancy, **dict(options))


def cell_title(cell: dict) -> str:
    name = NAMES.get(preset_of(cell))
    said = f"the cell ({', '.join(cell[module] for module in MODULES)})"
    return f"{name} = {said}" if name else said


def make_cell(affinity: str = "inner", normalization: str = "row_l2", discrepancy: str = "mse", **options) -> Kind:
    cell = {"affinity": affinity, "normalization": normalization, "discrepancy": discrepancy}
    preset = preset_of(cell) or "similarity"
    neighbours = sorted(
        (other for other in valid_cells() if other != cell), key=lambda other: len(_differing(cell, other))
    )
    others = (*_slips(preset), *(_other_cell(cell, other) for other in neighbours))
    return Kind(preset, cell_title(cell), "features", {preset: cell_loss(cell, **options)}, laws=LAWS, others=others)


def make_preset(name: str):
    return lambda **options: make_cell(**PRESETS[name], **options)


def _differing(cell: dict, other: dict) -> list[str]:
    return [module for module in MODULES if cell[module] != other[module]]


CELL_CAUSES = {
    (
        "normalization",
        "row_l2",
        "row_l1",
    ): "rows are divided by their L1 norm: F.normalize(G, 1) sets p = 1, not dim = 1",
    ("affinity", "inner", "cosine"): "the features are normalised before the Gram matrix, where the paper does not",
    ("normalization", "row_l2", "none"): "the rows of the similarity matrix are not normalised",
    (
        "normalization",
        "row_l2",
        "frobenius",
    ): "the whole matrix is divided by one norm: dim is missing in F.normalize or norm",
    (
        "normalization",
        "mean",
        "none",
    ): "the distances are not divided by their mean, so the scale of the features matters",
    ("affinity", "euclidean", "sqeuclidean"): "distances are squared: the square root is missing",
    ("affinity", "cosine_shifted", "cosine"): "cosines are not shifted to be positive, so rows are no distributions",
}
CELL_FIXES = {
    ("normalization", "row_l2", "row_l1"): "F.normalize(G, p=2, dim=1)",
    ("affinity", "inner", "cosine"): "G = Q @ Q.T of the plain flattened features, then normalise its rows",
}


SLIPS_OF_SP = {"rows_l1": "SP with L1 rows", "features_normalized": "SP of normalised features"}


def _other_cell(cell: dict, other: dict) -> Known:
    changed = [(module, cell[module], other[module]) for module in _differing(cell, other)]
    causes = [CELL_CAUSES.get(change, f"{change[0]} is {change[2]} where {change[1]} is due") for change in changed]
    fixes = [CELL_FIXES.get(change, f"use {change[1]} as {change[0]}") for change in changed]
    code = "rows_l1" if changed == [("normalization", "row_l2", "row_l1")] else "other_cell"
    code = "features_normalized" if ("affinity", "inner", "cosine") in changed else code
    slip_of_sp = SLIPS_OF_SP.get(code) if cell == PRESETS["sp"] and len(changed) == 1 else None
    return Known(
        code,
        f"{slip_of_sp}, {cell_title(other)}" if slip_of_sp else cell_title(other),
        cell_loss(other),
        "; ".join(causes),
        "; ".join(fixes),
        in_its_own_right=slip_of_sp is None,
        scaled_in="BT" if cell["discrepancy"] == other["discrepancy"] else "",
    )


def _slips(preset: str) -> tuple[Known, ...]:
    """Mistakes that no cell of the framework stands for."""
    return {"sp": SP_SLIPS, "rkd_distance": RKD_SLIPS, "pkt": PKT_SLIPS, "cc": CC_SLIPS}.get(preset, ())


def _grams(x: Inputs) -> tuple[Tensor, Tensor]:
    return inner(x.student.flatten(1)), inner(x.teacher.flatten(1))


def _pooled(features: Tensor) -> Tensor:
    return features.flatten(2).mean(2) if features.dim() > 2 else features


def _channel_gram_loss(x: Inputs) -> Tensor:
    if x.student.shape[1:] != x.teacher.shape[1:]:
        raise ValueError("channel Gram matrices of different widths cannot be compared")
    return mse(
        row_l2(x.student.flatten(1).T @ x.student.flatten(1)), row_l2(x.teacher.flatten(1).T @ x.teacher.flatten(1))
    )


SP_SLIPS = (
    Known(
        "pooled_first",
        "SP of pooled features",
        lambda x: losses.sp_loss(_pooled(x.student), _pooled(x.teacher)),
        "the maps are averaged over their pixels before the Gram matrix",
        "flatten the maps: Q = A.reshape(B, -1)",
    ),
    Known(
        "channels_normalized",
        "SP of maps whose channel vectors were normalised",
        lambda x: losses.sp_loss(F.normalize(x.student, dim=1), F.normalize(x.teacher, dim=1)),
        "the features are normalised over dim 1 before the Gram matrix, where the paper does not",
        "leave the features as they are",
    ),
    Known(
        "features_not_samples",
        "the similarity of features, (D, D), not of samples",
        _channel_gram_loss,
        "the Gram matrix is Q.T @ Q: features are related, not samples",
        "G = Q @ Q.T, (B, B)",
    ),
    Known(
        "student_rows_not_normalized",
        "SP with the teacher's rows normalised alone",
        lambda x: mse(_grams(x)[0], row_l2(_grams(x)[1])),
        "only the teacher's similarity matrix is normalised",
        "normalise the rows of both",
    ),
)


def _euclidean_with_mean_of_all(features: Tensor) -> Tensor:
    distances = AFFINITIES["euclidean"](features.flatten(1))
    return distances / distances.mean()


RKD_SLIPS = (
    Known(
        "mean_of_all_entries",
        "RKD-D divided by the mean of all entries, the zero diagonal included",
        lambda x: smooth_l1(_euclidean_with_mean_of_all(x.student), _euclidean_with_mean_of_all(x.teacher)),
        "the mean distance counts the B zeros of the diagonal",
        "divide by the mean of the positive entries",
    ),
    Known(
        "mean_detached",
        "RKD-D without the gradient through the mean distance",
        lambda x: smooth_l1(
            AFFINITIES["euclidean"](x.student.flatten(1))
            / _detached_mean(AFFINITIES["euclidean"](x.student.flatten(1))),
            NORMALIZATIONS["mean"](AFFINITIES["euclidean"](x.teacher.flatten(1))),
        ),
        "the mean distance is detached, so the loss pulls at the size of the features",
        "let the gradient flow through the mean",
    ),
)


def _detached_mean(distances: Tensor) -> Tensor:
    return (distances.sum() / (distances > 0).sum()).detach()


def _pkt_rows(features: Tensor) -> Tensor:
    return NORMALIZATIONS["row_l1"](AFFINITIES["cosine_shifted"](features.flatten(1)))


PKT_SLIPS = (
    Known(
        "reverse_kl",
        "PKT with the reverse divergence",
        lambda x: DISCREPANCIES["kl"](_pkt_rows(x.teacher), _pkt_rows(x.student)),
        "student and teacher are swapped in the divergence",
        "mean of t * log(t / s)",
    ),
)


def _plain_taylor(features: Tensor) -> Tensor:
    """The Taylor series of CC at inner products of features that were not normalised."""
    products = inner(features.flatten(1))
    return math.exp(-0.8) * (1 + 0.8 * products + 0.32 * products**2)


CC_SLIPS = (
    Known(
        "features_not_normalized",
        "CC of features that are not normalised",
        lambda x: mse(_plain_taylor(x.student), _plain_taylor(x.teacher)),
        "the features are not divided by their length, which the formula of the kernel takes for granted",
        "F.normalize(features, dim=1) first",
        scaled_in="BT",
    ),
    Known(
        "exact_kernel",
        "CC with the exact Gaussian kernel",
        cell_loss(PRESETS["cc"], order=None),
        "the kernel is computed exactly, not by its Taylor series",
        "nothing to mend: order 2 is what the published numbers used",
        acceptable=True,
    ),
)


ANGLE_LAWS = (
    Law("B", 3, "summed_over_triplets", "the B ** 3 entries are summed", "take their mean"),
    Law(
        "B",
        2,
        "divided_by_batch_once",
        "the sum over triplets is divided by B alone",
        "take the mean over all triplets",
    ),
)


def make_rkd(distance_weight: float = 25.0, angle_weight: float = 50.0) -> Kind:
    """Both halves of RKD, as they are usually added up."""
    return Kind(
        "rkd",
        "RKD",
        "features",
        {"distances": cell_loss(PRESETS["rkd_distance"]), "angles": _angles},
        weights={"distances": distance_weight, "angles": angle_weight},
        laws=LAWS,
    )


def _angles(x: Inputs) -> Tensor:
    return losses.rkd_angle_loss(x.student, x.teacher)


def make_rkd_angle() -> Kind:
    others = (
        Known(
            "samples_for_angles",
            "the cosine Gram",
            cell_loss(PRESETS["cosine_gram"]),
            "cosines of the features are compared, not of the differences between samples",
            "use the differences f_j - f_i, normalised, of every pair",
        ),
        Known(
            "distances_for_angles",
            "RKD-D",
            cell_loss(PRESETS["rkd_distance"]),
            "distances are compared, not angles",
            "use angles",
        ),
    )
    return Kind(
        "rkd_angle",
        "RKD-A, equation (3.6)",
        "features",
        {"angles": _angles},
        laws=ANGLE_LAWS,
        others=others,
    )
