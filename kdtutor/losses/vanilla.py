"""Vanilla knowledge distillation on logits, and two relatives that still compare softmax outputs.

Hinton, Vinyals & Dean 2015, arXiv 1503.02531 (KD); Zhao et al. 2022, arXiv 2203.08679 (DKD);
Sun et al. 2024, arXiv 2403.01427 (logit standardisation). Notebook 01.
"""

import torch
from torch import Tensor

from ._checks import (
    check_float_tensor,
    check_labels,
    check_logits,
    check_non_negative,
    check_positive,
    check_reduction,
    reduce_samples,
)
from ._rows import is_constant


def kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0, reduction: str = "batchmean"
) -> Tensor:
    """Kullback-Leibler divergence from the teacher's softened probabilities to the student's.

    Equation (1.2), exact, of Hinton, Vinyals & Dean 2015, with p = softmax(z / T):

        L_KD = T^2 / B * sum_b sum_c p_t log(p_t / p_s)

    The factor T^2 keeps the size of the gradient, (T / B) (p_s - p_t), in place as T changes.

    Args:
        student_logits: (B, C), any float dtype; computed in at least float32.
        teacher_logits: (B, C), detached.
        temperature: T > 0. Higher spreads probability over the wrong classes.
        reduction: "batchmean" for the scalar above, "none" for (B,).

    Raises:
        TypeError, ValueError: shapes, class counts, dtypes or devices that do not fit, T <= 0,
            or reduction="mean", which would be C times too weak.
    """
    student_logits, teacher_logits = check_logits(student_logits, teacher_logits)
    check_positive("temperature", temperature)
    check_reduction(reduction)
    return reduce_samples(temperature**2 * _kl(student_logits / temperature, teacher_logits / temperature), reduction)


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    reduction: str = "batchmean",
) -> Tensor:
    """Decoupled KD: the divergence split into "is it the target?" and "which of the others?".

    Equation (1.4), exact, of Zhao et al. 2022. With b the two-way distribution (target, rest) and
    q the distribution over the C - 1 other classes, both at temperature T:

        L_DKD = T^2 / B * sum_b [ alpha KL(b_t || b_s) + beta KL(q_t || q_s) ]

    With beta replaced by the teacher's probability of "rest", sample by sample, this is kd_loss.

    Args:
        student_logits, teacher_logits: (B, C); the teacher is detached.
        labels: (B,) integers in [0, C). Their range is not looked at here.
        alpha, beta: weights of the two parts, >= 0. temperature: T > 0.
        reduction: "batchmean" or "none".
    """
    student_logits, teacher_logits = check_logits(student_logits, teacher_logits)
    check_labels("labels", labels, student_logits)
    check_non_negative("alpha", alpha)
    check_non_negative("beta", beta)
    check_positive("temperature", temperature)
    check_reduction(reduction)
    if student_logits.shape[1] < 3 and beta > 0:
        raise ValueError(
            f"beta is {beta}, but student_logits has 2 classes: the rest is a single class, "
            "so beta has nothing to act on; pass beta=0"
        )

    student_logits, teacher_logits = student_logits / temperature, teacher_logits / temperature
    is_target = labels[:, None] == torch.arange(student_logits.shape[1], device=labels.device)
    target_part = _kl(_target_and_rest(student_logits, is_target), _target_and_rest(teacher_logits, is_target))
    others_part = _kl(_others(student_logits, is_target), _others(teacher_logits, is_target))
    return reduce_samples(temperature**2 * (alpha * target_part + beta * others_part), reduction)


def standardize_logits(logits: Tensor) -> Tensor:
    """Each row with mean 0 and standard deviation 1, so that only the shape of an answer is compared.

    Equation (1.5), exact, of Sun et al. 2024: z' = (z - mean) / (1e-7 + std), with the unbiased std.
    A row without any variation becomes 0 and passes no gradient.

    Args:
        logits: (B, C) or (..., C) with C >= 2, any float dtype; returned in at least float32.
    """
    check_float_tensor("logits", logits)
    if logits.dim() == 0 or logits.shape[-1] < 2:
        raise ValueError(f"logits has shape {tuple(logits.shape)}, wanted (..., classes) with at least 2 classes")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    deviations = logits - logits.mean(-1, keepdim=True)
    deviations = deviations.masked_fill(is_constant(logits, -1), 0)
    std = torch.linalg.vector_norm(deviations, dim=-1, keepdim=True) / (logits.shape[-1] - 1) ** 0.5
    return deviations / (1e-7 + std)


def _kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) of each row: (B,)."""
    log_p_s = student_logits.log_softmax(dim=-1)
    log_p_t = teacher_logits.log_softmax(dim=-1)
    return (log_p_t.exp() * (log_p_t - log_p_s)).sum(dim=-1)


def _target_and_rest(logits: Tensor, is_target: Tensor) -> Tensor:
    """(B, 2) logits of the two-way question "is it the target?"."""
    target = logits.masked_fill(~is_target, 0).sum(dim=-1)
    rest = logits.masked_fill(is_target, -torch.inf).logsumexp(dim=-1)
    return torch.stack((target, rest), dim=-1)


def _others(logits: Tensor, is_target: Tensor) -> Tensor:
    """The logits with the target's put so low that its probability is 0, and still finite."""
    return logits.masked_fill(is_target, torch.finfo(logits.dtype).min / 4)
