"""One framework for relational distillation: an affinity, a normalisation, a discrepancy.

Li & Maki 2022, arXiv 2209.15555, see every loss on relations between samples as three modules:
how alike two samples of a batch are, how that matrix is normalised, and how the student's matrix
is compared with the teacher's. SP, RKD-D, PKT and CC are cells of the framework, listed in PRESETS.
The paper's own lists of modules could not be read: which modules stand here is a reconstruction;
the four named cells are exact. RKD-A, on triplets instead of pairs, stands at the end. Notebook 03.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ._checks import check_choice, check_count, check_features, check_positive, full_precision
from ._rows import divide_or_zero, is_constant

# --- Affinities: (B, D) features -> (B, B), entry (i, j) relates sample i to sample j ---


def inner(features: Tensor) -> Tensor:
    """<f_i, f_j>."""
    return _Gram.apply(features)


class _Gram(torch.autograd.Function):
    """features @ features.T, for features as wide as a map.

    The backward pass takes one product, where torch, blind to the symmetry, takes two.
    """

    @staticmethod
    def forward(ctx, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        return features @ features.T

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        with full_precision(gradient):
            return (gradient + gradient.T) @ features


def cosine(features: Tensor) -> Tensor:
    """<f_i, f_j> / (|f_i| |f_j|); 0 for a dead sample."""
    unit = _unit(features)
    return unit @ unit.T


def cosine_shifted(features: Tensor) -> Tensor:
    """(cosine + 1) / 2, between 0 and 1."""
    return (cosine(features) + 1) / 2


def sqeuclidean(features: Tensor) -> Tensor:
    """|f_i - f_j|^2, a distance: large means unlike."""
    squares, same = _squared_distances(features)
    return squares.masked_fill(same, 0)


def euclidean(features: Tensor) -> Tensor:
    """|f_i - f_j|, a distance; 0, without gradient, between equal samples."""
    squares, same = _squared_distances(features)
    return squares.masked_fill(same, 1).sqrt().masked_fill(same, 0)


def _squared_distances(features: Tensor) -> tuple[Tensor, Tensor]:
    """|f_i - f_j|^2, and where it is no more than rounding: one and the same point."""
    features = features - features.mean(dim=0)  # no distance changes, and rounding errors shrink
    gram = features @ features.T
    squares = gram.diagonal()
    sums = squares[:, None] + squares[None, :]
    distances = torch.sub(sums, gram, alpha=2)  # a sample's distance to itself is 0 exactly
    return distances, distances <= 4 * torch.finfo(features.dtype).eps * sums


def rbf(features: Tensor, gamma: float = 0.4, order: int | None = 2) -> Tensor:
    """exp(-gamma |u_i - u_j|^2) of unit features u, as a Taylor series up to `order`, or exact with order=None.

    Since |u_i - u_j|^2 = 2 - 2 <u_i, u_j>, it is exp(-2 gamma) * sum_p (2 gamma)^p / p! * <u_i, u_j>^p.
    """
    check_positive("gamma", gamma)
    cosines = cosine(features)
    if order is None:
        return torch.exp(2 * gamma * (cosines - 1))
    check_count("order", order)
    series = 1.0
    for p in range(order, 0, -1):  # Horner's rule
        series = 1 + (2 * gamma / p * series) * cosines
    return math.exp(-2 * gamma) * series


AFFINITIES: dict[str, Callable] = {
    "inner": inner,
    "cosine": cosine,
    "cosine_shifted": cosine_shifted,
    "euclidean": euclidean,
    "sqeuclidean": sqeuclidean,
    "rbf": rbf,
}
DISTANCES = frozenset({"euclidean", "sqeuclidean"})  # large means unlike
NON_NEGATIVE = DISTANCES | {"cosine_shifted", "rbf"}


# --- Normalisations: (B, B) -> (B, B) ---


def none(matrix: Tensor) -> Tensor:
    """As it is."""
    return matrix


def row_l1(matrix: Tensor) -> Tensor:
    """Rows whose absolute values sum to 1."""
    return divide_or_zero(matrix, matrix.abs().sum(dim=1, keepdim=True))


def row_l2(matrix: Tensor) -> Tensor:
    """Rows of Euclidean length 1."""
    return divide_or_zero(matrix, torch.linalg.vector_norm(matrix, dim=1, keepdim=True))


def row_softmax(matrix: Tensor, tau: float = 1.0, of_distance: bool = False) -> Tensor:
    """softmax(row / tau), or softmax(-row / tau) of a distance, so that near samples get the large probabilities."""
    check_positive("tau", tau)
    return (matrix / (-tau if of_distance else tau)).softmax(dim=1)


def mean(matrix: Tensor) -> Tensor:
    """Divided by the mean of the positive entries."""
    return divide_or_zero(matrix, matrix.relu().sum() / (matrix > 0).sum().clamp(min=1))


def frobenius(matrix: Tensor) -> Tensor:
    """A matrix of Frobenius norm 1."""
    return divide_or_zero(matrix, torch.linalg.matrix_norm(matrix))


def row_minmax(matrix: Tensor) -> Tensor:
    """Rows stretched to run from 0 to 1; a constant row becomes 0."""
    smallest, largest = matrix.amin(dim=1, keepdim=True), matrix.amax(dim=1, keepdim=True)
    constant = is_constant(matrix, 1)
    return ((matrix - smallest) / (largest - smallest).masked_fill(constant, 1)).masked_fill(constant, 0)


def row_zscore(matrix: Tensor) -> Tensor:
    """Rows with mean 0 and population standard deviation 1; a constant row becomes 0."""
    deviations = (matrix - matrix.mean(dim=1, keepdim=True)).masked_fill(is_constant(matrix, 1), 0)
    std = torch.linalg.vector_norm(deviations, dim=1, keepdim=True) / matrix.shape[1] ** 0.5
    return divide_or_zero(deviations, std)


NORMALIZATIONS: dict[str, Callable] = {
    "none": none,
    "row_l1": row_l1,
    "row_l2": row_l2,
    "row_softmax": row_softmax,
    "mean": mean,
    "frobenius": frobenius,
    "row_minmax": row_minmax,
    "row_zscore": row_zscore,
}


# --- Discrepancies: two (B, B) matrices -> a scalar, the mean over all B^2 entries ---


def mse(student_matrix: Tensor, teacher_matrix: Tensor) -> Tensor:
    return F.mse_loss(student_matrix, teacher_matrix)


def l1(student_matrix: Tensor, teacher_matrix: Tensor) -> Tensor:
    return F.l1_loss(student_matrix, teacher_matrix)


def smooth_l1(student_matrix: Tensor, teacher_matrix: Tensor) -> Tensor:
    return F.smooth_l1_loss(student_matrix, teacher_matrix)


def kl(student_matrix: Tensor, teacher_matrix: Tensor, eps: float = 1e-7) -> Tensor:
    """mean of t log((t + eps) / (s + eps)); both matrices hold a probability distribution in each row."""
    return (teacher_matrix * ((teacher_matrix + eps).log() - (student_matrix + eps).log())).mean()


DISCREPANCIES: dict[str, Callable] = {"mse": mse, "l1": l1, "smooth_l1": smooth_l1, "kl": kl}


PRESETS: dict[str, dict[str, str]] = {
    "sp": {"affinity": "inner", "normalization": "row_l2", "discrepancy": "mse"},
    "rkd_distance": {"affinity": "euclidean", "normalization": "mean", "discrepancy": "smooth_l1"},
    "pkt": {"affinity": "cosine_shifted", "normalization": "row_l1", "discrepancy": "kl"},
    "cc": {"affinity": "rbf", "normalization": "none", "discrepancy": "mse"},
    "cosine_gram": {"affinity": "cosine", "normalization": "none", "discrepancy": "mse"},
}


MODULES = ("affinity", "normalization", "discrepancy")


def preset_of(cell: dict[str, str]) -> str:
    """The name that PRESETS has for a cell, or ""."""
    return next((name for name, preset in PRESETS.items() if preset == cell), "")


def valid_cells() -> list[dict[str, str]]:
    """All that have a meaning: "kl" needs rows that are probabilities."""
    cells = []
    for names in product(AFFINITIES, NORMALIZATIONS, DISCREPANCIES):
        try:
            check_cell(*names)
        except ValueError:
            continue
        cells.append(dict(zip(MODULES, names, strict=True)))
    return cells


def affinity_loss(
    student_features: Tensor,
    teacher_features: Tensor,
    affinity: str | Callable = "inner",
    normalization: str | Callable = "row_l2",
    discrepancy: str | Callable = "mse",
    **options,
) -> Tensor:
    """discrepancy(normalize(affinity(student)), normalize(affinity(teacher))), equation (3.1).

    `affinity_loss(s, t, **PRESETS["pkt"])` is PKT; see PRESETS for SP, RKD-D, CC and the cosine Gram.

    Args:
        student_features: (B, ...), flattened to (B, D_s); computed in at least float32.
        teacher_features: (B, ...), flattened to (B, D_t), detached. D_s and D_t may differ.
        affinity: a name in AFFINITIES or a callable (B, D) -> (B, B).
        normalization: a name in NORMALIZATIONS or a callable (B, B) -> (B, B). "row_softmax" of a
            distance uses its negative, so that near samples get the large probabilities.
        discrepancy: a name in DISCREPANCIES or a callable (student (B, B), teacher (B, B)) -> scalar.
        options: tau for "row_softmax" (default 1), gamma and order for "rbf" (.4 and 2; order=None is
            the exact kernel).

    Raises:
        ValueError: an unknown name, an option the chosen cell does not use, or "kl" on matrices whose
            rows are not probability distributions.
        TypeError: features that are not floating-point tensors.
    """
    student_features, teacher_features = check_features(student_features, teacher_features)
    check_cell(affinity, normalization, discrepancy)
    relate, normalize, compare = modules_of(affinity, normalization, discrepancy, options)
    with full_precision(student_features):
        return compare(normalize(relate(student_features)), normalize(relate(teacher_features)))


def check_cell(affinity: str | Callable, normalization: str | Callable, discrepancy: str | Callable) -> None:
    """Refuse a cell of the framework that has no meaning. Callables are taken at their word."""
    for name, value, known in (
        ("affinity", affinity, AFFINITIES),
        ("normalization", normalization, NORMALIZATIONS),
        ("discrepancy", discrepancy, DISCREPANCIES),
    ):
        if not callable(value):
            check_choice(name, value, known)
    if discrepancy == "kl" and isinstance(normalization, str):
        if normalization not in ("row_softmax", "row_l1"):
            raise ValueError(
                f"discrepancy 'kl' compares probability distributions, and normalization {normalization!r} does not "
                "make rows sum to 1; use 'row_softmax', or 'row_l1' of a non-negative affinity"
            )
        if normalization == "row_l1" and isinstance(affinity, str) and affinity not in NON_NEGATIVE:
            raise ValueError(
                f"discrepancy 'kl' compares probability distributions, and affinity {affinity!r} can be negative, so "
                f"'row_l1' does not make one of it; use 'row_softmax', or one of {', '.join(sorted(NON_NEGATIVE))}"
            )


def modules_of(affinity, normalization, discrepancy, options) -> tuple[Callable, Callable, Callable]:
    """The three callables of a cell, with the options bound to the one that uses them."""
    options = dict(options)
    relate = affinity if callable(affinity) else AFFINITIES[affinity]
    normalize = normalization if callable(normalization) else NORMALIZATIONS[normalization]
    compare = discrepancy if callable(discrepancy) else DISCREPANCIES[discrepancy]
    if affinity == "rbf":
        relate = partial(rbf, **{name: options.pop(name) for name in ("gamma", "order") if name in options})
    if normalization == "row_softmax":
        normalize = partial(row_softmax, tau=options.pop("tau", 1.0), of_distance=affinity in DISTANCES)
    if options:
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise ValueError(
            f"{given}: not an option of this cell ({affinity}, {normalization}, {discrepancy}); "
            "tau belongs to 'row_softmax', gamma and order to 'rbf'"
        )
    return relate, normalize, compare


ANGLES_AT_ONCE = 2**22  # numbers held at a time: 16 MB in float32


def rkd_angle_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """RKD-A: smooth L1 between the cosines of the angles that all triplets of samples form.

    Equation (3.6), exact, of Park et al. 2019, arXiv 1904.05068: with e_ij = (f_j - f_i) / |f_j - f_i|,

        L_RKD-A = mean over (i, j, k) of smooth_l1(<e_ij, e_ik>_s, <e_ij, e_ik>_t)

    In a large batch the B^3 cosines are made for a few anchors i at a time, and made again in the backward
    pass, so that memory does not grow with B^3. Published weight 50, beside 25 for the distances.

    Args:
        student_features: (B, ...), flattened; teacher_features: (B, ...), flattened and detached.
    """
    student_features, teacher_features = check_features(student_features, teacher_features)
    B, D = len(student_features), max(student_features.shape[1], teacher_features.shape[1])
    anchors_at_once = max(1, ANGLES_AT_ONCE // (B * (B + D)))
    made_again = partial(checkpoint, _angle_sum, use_reentrant=False, preserve_rng_state=False)
    angle_sum = made_again if anchors_at_once < B else _angle_sum
    total = student_features.new_zeros(())
    with full_precision(student_features):
        for first in range(0, B, anchors_at_once):
            total = total + angle_sum(student_features, teacher_features, slice(first, first + anchors_at_once))
    return total / B**3


def _angle_sum(student_features: Tensor, teacher_features: Tensor, anchors: slice) -> Tensor:
    return F.smooth_l1_loss(
        _cosines_at(student_features, anchors), _cosines_at(teacher_features, anchors), reduction="sum"
    )


def _cosines_at(features: Tensor, anchors: slice) -> Tensor:
    """(A, B, B): <e_ij, e_ik> for each anchor i and all j, k; 0 where two samples are one and the same."""
    e = _unit(features[None, :, :] - features[anchors, None, :])
    return e @ e.transpose(1, 2)


def _unit(features: Tensor) -> Tensor:
    return divide_or_zero(features, torch.linalg.vector_norm(features, dim=-1, keepdim=True))
