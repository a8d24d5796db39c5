"""Correlations between two answers: of values (Pearson), of ranks (Spearman), and both (CMKD).

Niu et al. 2024, arXiv 2410.06561 (CMKD); Blondel et al. 2020, arXiv 2002.08871 (soft ranks);
Huang et al. 2022, arXiv 2205.10536 (DIST). Notebook 05.
"""

import math

import torch
from torch import Tensor

from ._checks import (
    check_choice,
    check_count,
    check_flag,
    check_float_tensor,
    check_logits,
    check_non_negative,
    check_positive,
    check_reduction,
    check_same_device,
    reduce_samples,
)
from ._rows import is_constant, unit_deviations

# --- Soft ranks ---


def soft_rank(values: Tensor, regularization_strength: float = 1.0) -> Tensor:
    """Ranks that have a gradient: the largest of n values gets rank n, ties get their average rank.

    Equations (5.4) to (5.6), exact, of Blondel et al. 2020 (L2 regularisation), for each row:

        s = sort(values / strength), descending                          (5.4)
        v = the non-increasing fit of s - (n, n - 1, ..., 1)             (5.5)
        ranks = s - v, put back in the order of the values               (5.6)

    Where v is strictly decreasing the rank is exact and its gradient 0; where values are so close that
    v pools them into a block, ranks move with the values: gradient 1 / strength times (own - block mean).
    A small strength gives true ranks that teach nothing, a large one gives a straight line.

    Args:
        values: (..., n), any float dtype; computed in at least float32, the fit in float64 where there is one.
        regularization_strength: > 0, in the units of the values.

    Returns:
        (..., n) in at least float32.
    """
    check_float_tensor("values", values)
    if values.dim() == 0 or values.numel() == 0:
        raise ValueError(f"values has shape {tuple(values.shape)}, wanted (..., n) with at least one value")
    check_positive("regularization_strength", regularization_strength)
    return _centered_soft_rank(values, regularization_strength) + (values.shape[-1] + 1) / 2


def _centered_soft_rank(values: Tensor, strength: float) -> Tensor:
    """Soft ranks less their mean, (n + 1) / 2: so a large strength leaves small numbers, not rounding errors."""
    n = values.shape[-1]
    out_dtype = torch.promote_types(values.dtype, torch.float32)
    fit_dtype = out_dtype if values.device.type == "mps" else torch.float64
    rows = values.reshape(-1, n).to(fit_dtype) / strength
    s, order = rows.detach().sort(dim=-1, descending=True, stable=True)
    w = torch.arange(n, 0, -1, dtype=fit_dtype, device=values.device)
    blocks = torch.zeros_like(order).scatter(-1, order, pooled_blocks(s - w))  # of each value, in its own place
    # Within a block v = mean(s) - mean(w), so a rank is the block's mean rank and the value's deviation in the block.
    counts = torch.zeros_like(rows).scatter_add(-1, blocks, torch.ones_like(rows))
    mean_ranks = (n + counts) / 2 - counts.cumsum(dim=-1)  # less (n + 1) / 2; block 0 holds the largest values
    mean_values = torch.zeros_like(rows).scatter_add(-1, blocks, rows) / counts.clamp(min=1)
    ranks = rows + (mean_ranks - mean_values).gather(-1, blocks)
    return ranks.reshape(values.shape).to(out_dtype)


@torch.library.custom_op("kdtutor::pooled_blocks", mutates_args=())
def pooled_blocks(y: Tensor) -> Tensor:
    """Which entries of each row the best non-increasing fit pools: (rows, n) block numbers, from 0.

    An operator of its own because it loops until nothing changes, which a compiled graph cannot hold.
    It returns whole numbers, so the gradient of everything around it is torch's own, and exact.
    """
    return _blocks_by_merging(y) if y.device.type == "cpu" else _blocks_by_min_max(y)


@pooled_blocks.register_fake
def _(y: Tensor) -> Tensor:
    return torch.empty_like(y, dtype=torch.int64)


def _blocks_by_merging(y: Tensor) -> Tensor:
    """Pool adjacent violators, all rows and all violations at once, until there is none.

    All rows' blocks stand in one list, which gets shorter with every round.
    """
    rows, n = y.shape
    starts = torch.arange(rows * n)  # where each block begins
    opens_row = starts % n == 0
    sums, counts = y.flatten(), torch.ones_like(y).flatten()
    while True:
        means = sums / counts
        joins = torch.nn.functional.pad(means[1:] > means[:-1], (1, 0)) & ~opens_row  # the block before it
        if not joins.any():
            break
        into = (~joins).cumsum(dim=0) - 1
        stays = (~joins).nonzero()[:, 0]
        starts, opens_row = starts.index_select(0, stays), opens_row.index_select(0, stays)
        sums = torch.zeros_like(means[: len(stays)]).scatter_add_(0, into, sums)
        counts = torch.zeros_like(sums).scatter_add_(0, into, counts)
    return torch.zeros(rows * n, dtype=torch.int64).index_fill_(0, starts, 1).view(rows, n).cumsum(dim=-1) - 1


def _blocks_by_min_max(y: Tensor) -> Tensor:
    """The same blocks, without asking the device how far it is.

    The fit in closed form: v_i = min over j <= i of max over k >= i of mean(y_j .. y_k).
    """
    n = y.shape[-1]
    before = torch.nn.functional.pad(y.cumsum(dim=-1), (1, 0))
    lengths = torch.arange(1, n + 1, device=y.device) - torch.arange(n, device=y.device)[:, None]  # [j, k] = k - j + 1
    rows_at_once = max(1, 2**26 // n**2)
    fits = []
    for some in before.split(rows_at_once):
        means = (some[:, None, 1:] - some[:, :-1, None]) / lengths  # [row, j, k]
        means = means.masked_fill(lengths < 1, -torch.inf)
        best_end = means.flip(-1).cummax(dim=-1).values.flip(-1)  # [row, j, i] = max over k >= i
        best_end = best_end.masked_fill(lengths < 1, torch.inf)  # only starts j <= i
        fits.append(best_end.amin(dim=1))
    v = torch.cat(fits)
    starts = torch.nn.functional.pad(v[:, 1:] < v[:, :-1], (1, 0))
    return starts.cumsum(dim=-1)


# --- Correlations ---


def pearson_correlation(a: Tensor, b: Tensor, dim: int = -1) -> Tensor:
    """Pearson's rho between a and b along `dim`, equation (5.1), exact. Symmetric, differentiable in both.

    Args:
        a, b: the same shape, any float dtype; computed in at least float32.

    Returns:
        The shape of a without `dim`, within [-1, 1]. Where a or b is constant there is no correlation:
        0, without gradient.
    """
    a, b = _check_same_shape(a, b)
    check_count("dim", dim, minimum=-a.dim())
    if dim >= a.dim():
        raise ValueError(f"dim is {dim}, but a has {a.dim()} dimensions")
    return (unit_deviations(a, dim) * unit_deviations(b, dim)).sum(dim)


def spearman_correlation(a: Tensor, b: Tensor, regularization_strength: float | None = None) -> Tensor:
    """Pearson's rho between the soft ranks of the z-scored rows of a and b, equation (5.7).

    Symmetric, differentiable in both. A strength near 0 gives Spearman's rho and no gradient; a large
    one gives Pearson's rho. In between it is neither, and that is what makes it useful.

    Args:
        a, b: (..., C), the same shape.
        regularization_strength: of the soft rank, > 0; None for 3 / C, at which about nine ranks in ten
            are right and most classes get a gradient, for any number of classes.

    Returns:
        (...), 0 without gradient where a row is constant.
    """
    a, b = _check_same_shape(a, b)
    strength = _strength(regularization_strength, a.shape[-1])
    rank_a = _centered_soft_rank(_zscore(a), strength)
    rank_b = _centered_soft_rank(_zscore(b), strength)
    return (unit_deviations(rank_a) * unit_deviations(rank_b)).sum(-1)


def _strength(regularization_strength: float | None, num_classes: int) -> float:
    if regularization_strength is None:
        return 3 / num_classes
    check_positive("regularization_strength", regularization_strength)
    return regularization_strength


def _zscore(values: Tensor) -> Tensor:
    """Rows with mean 0 and population standard deviation 1."""
    return unit_deviations(values) * values.shape[-1] ** 0.5


def _check_same_shape(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    check_float_tensor("a", a)
    check_float_tensor("b", b)
    if a.shape != b.shape or a.dim() == 0 or a.numel() == 0:
        raise ValueError(f"a has shape {tuple(a.shape)}, b {tuple(b.shape)}; both must have the same shape, not empty")
    check_same_device("b", b, "a", a)
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return a.to(dtype), b.to(dtype)


# --- Losses ---

DIFFICULTIES = ("teacher_entropy", "student_entropy", "teacher_margin")


def cmkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    difficulty: str = "teacher_entropy",
    difficulty_temperature: float = 4.0,
    hard_samples_favor: str = "spearman",
    dynamic: bool = True,
    regularization_strength: float | None = None,
    reduction: str = "batchmean",
) -> Tensor:
    """Correlation matching: agree with the teacher on values and on the ranking of the classes.

    Equations (5.8) and (5.9), a reconstruction from the abstract of Niu et al. 2024, whose text could not be read:

        d_b = H(softmax(z_t / tau_d)) / log C                                                  (5.8)
        L = mean_b [ (1 - d_b) (1 - rho(z_s, z_t)) + d_b (1 - rho(rank z_s, rank z_t)) ]       (5.9)

    The two correlation terms alone: cross-entropy and their weight beside it belong to the method. Open
    in the paper, hence arguments: what makes a sample difficult, and which term difficult samples favour.

    Args:
        student_logits, teacher_logits: (B, C); the teacher is detached.
        difficulty: "teacher_entropy" (5.8), "student_entropy" (the same of the student, detached), or
            "teacher_margin" (1 less the gap between the teacher's two largest probabilities).
        difficulty_temperature: tau_d > 0. At 1 a well-trained teacher finds everything easy.
        hard_samples_favor: "spearman", or "pearson" to turn the weights round.
        dynamic: False gives both terms the weight 1/2 for every sample.
        regularization_strength: of the soft rank of z-scored logits; None for 3 / C.
        reduction: "batchmean" or "none".
    """
    student_logits, teacher_logits = check_logits(student_logits, teacher_logits)
    check_choice("difficulty", difficulty, DIFFICULTIES)
    check_positive("difficulty_temperature", difficulty_temperature)
    check_choice("hard_samples_favor", hard_samples_favor, ("spearman", "pearson"))
    check_flag("dynamic", dynamic)
    check_reduction(reduction)
    if dynamic:
        logits = student_logits.detach() if difficulty == "student_entropy" else teacher_logits
        d = sample_difficulty(
            logits / difficulty_temperature, "margin" if difficulty == "teacher_margin" else "entropy"
        )
    else:
        d = 0.5
    weight_spearman, weight_pearson = (d, 1 - d) if hard_samples_favor == "spearman" else (1 - d, d)
    pearson = 1 - pearson_correlation(student_logits, teacher_logits)
    spearman = 1 - spearman_correlation(student_logits, teacher_logits, regularization_strength)
    return reduce_samples(weight_pearson * pearson + weight_spearman * spearman, reduction)


def sample_difficulty(logits: Tensor, measure: str = "entropy") -> Tensor:
    """How undecided each answer is, from 0 (sure) to 1: normalised entropy, or 1 - margin. (B, C) -> (B,)."""
    log_p = logits.log_softmax(dim=-1)
    if measure == "entropy":
        return -(log_p.exp() * log_p).sum(dim=-1) / math.log(logits.shape[-1])
    largest, second = log_p.exp().topk(2, dim=-1).values.unbind(dim=-1)
    return 1 - (largest - second)


def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0, beta: float = 1.0, gamma: float = 1.0
) -> Tensor:
    """DIST: correlate each sample's probabilities over classes, and each class's over the batch.

    Equation (5.10), exact, of Huang et al. 2022, on p = softmax(z / T):

        L_DIST = T^2 [ beta (1 - mean_b rho(p_s[b, :], p_t[b, :])) + gamma (1 - mean_c rho(p_s[:, c], p_t[:, c])) ]

    with their 1e-8 in the denominator of rho. A row or column without variance, so every column of
    a batch of one, counts as rho = 0 and passes no gradient.

    Args:
        student_logits, teacher_logits: (B, C); the teacher is detached.
        temperature: T > 0, 4 on CIFAR and 1 on ImageNet in the paper. beta, gamma: weights >= 0.
    """
    student_logits, teacher_logits = check_logits(student_logits, teacher_logits)
    check_positive("temperature", temperature)
    check_non_negative("beta", beta)
    check_non_negative("gamma", gamma)
    p_s, p_t = (student_logits / temperature).softmax(dim=1), (teacher_logits / temperature).softmax(dim=1)
    between_classes = 1 - _dist_correlation(p_s, p_t, dim=1).mean()
    between_samples = 1 - _dist_correlation(p_s, p_t, dim=0).mean()
    return temperature**2 * (beta * between_classes + gamma * between_samples)


def _dist_correlation(p_s: Tensor, p_t: Tensor, dim: int) -> Tensor:
    dev_s, dev_t = ((p - p.mean(dim, keepdim=True)).masked_fill(is_constant(p, dim), 0) for p in (p_s, p_t))
    sizes = torch.linalg.vector_norm(dev_s, dim=dim) * torch.linalg.vector_norm(dev_t, dim=dim)
    return (dev_s * dev_t).sum(dim) / (sizes + 1e-8)
