"""Mixup, and distillation on the virtual images it makes.

Zhang et al. 2018, arXiv 1710.09412 (mixup); Zhao et al. 2021, arXiv 2103.10047 (STKD). Notebook 04.
"""

import math
import random
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ._checks import (
    check_float_tensor,
    check_fraction,
    check_labels,
    check_logits,
    check_positive,
    check_reduction,
    check_same_device,
    reduce_samples,
)
from .vanilla import kd_loss


class Mixed(NamedTuple):
    """A batch of virtual images: row i is lam * image i + (1 - lam) * image permutation[i]."""

    images: Tensor
    labels: Tensor
    permuted_labels: Tensor
    lam: float
    permutation: Tensor


def mixup(images: Tensor, labels: Tensor, alpha: float = 1.0, generator: Generator | None = None) -> Mixed:
    """Blend each image with another of the batch, equation (4.1), exact.

        x~ = lam x + (1 - lam) x[permutation],   lam ~ Beta(alpha, alpha), one lam for the batch

    Args:
        images: (B, ...) floating point. labels: (B,) integers.
        alpha: > 0. Small values stay near one of the two images, 1 is uniform.
        generator: a CPU generator, from which both lam and the permutation are drawn; None for torch's own.
            Teacher and student must see the same virtual images: mix once, then ask both.
    """
    check_float_tensor("images", images)
    if images.dim() == 0 or len(images) == 0:
        raise ValueError(f"images has shape {tuple(images.shape)}, wanted (batch, ...) with at least one image")
    check_labels("labels", labels, images)
    check_positive("alpha", alpha)
    seed = int(torch.randint(2**62, (), generator=generator))
    lam = random.Random(seed).betavariate(alpha, alpha)  # torch's own Beta takes no generator
    permutation = torch.randperm(len(images), generator=generator).to(images.device, non_blocking=True)
    mixed = lam * images + (1 - lam) * images[permutation]
    return Mixed(mixed, labels, labels[permutation], lam, permutation)


def mixup_cross_entropy(
    logits: Tensor, labels: Tensor, permuted_labels: Tensor, lam: float | Tensor, reduction: str = "batchmean"
) -> Tensor:
    """lam CE(z, y) + (1 - lam) CE(z, y[permutation]), equation (4.2), exact. Shapes as in stkd_loss."""
    check_float_tensor("logits", logits)
    if logits.dim() != 2 or len(logits) == 0:
        raise ValueError(f"logits has shape {tuple(logits.shape)}, wanted (batch, classes) with at least one sample")
    check_labels("labels", labels, logits)
    check_labels("permuted_labels", permuted_labels, logits)
    _check_lam(lam, logits)
    check_reduction(reduction)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = F.cross_entropy(logits, labels.long(), reduction="none")
    partner = F.cross_entropy(logits, permuted_labels.long(), reduction="none")
    return reduce_samples(lam * own + (1 - lam) * partner, reduction)


def stkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    permuted_labels: Tensor,
    lam: float | Tensor,
    temperature: float = 4.0,
    weight: float = 0.9,
    reduction: str = "batchmean",
) -> Tensor:
    """Similarity transfer (STKD): both networks' answers on virtual images should agree.

    Equation (4.3), a reconstruction from the abstract of Zhao et al. 2021, whose text could not be read:

        L_STKD = (1 - w) * CE_mix(z_s(x~)) + w * T^2 / B * sum_b KL(p_t(x~) || p_s(x~))

    Open in the paper, hence arguments: w, T, mixup's alpha, and what the teacher is asked. By default it
    answers on the virtual image; pass `interpolated_logits` of its two clean answers for the alternative.
    lam = 1 is (1 - w) CE + w kd_loss exactly.

    Args:
        student_logits, teacher_logits: (B, C) on the same virtual images; the teacher is detached.
        labels, permuted_labels: (B,) integers, as `mixup` returns them.
        lam: a number in [0, 1] or a 0-dim tensor.
        temperature: T > 0. weight: w in [0, 1].
        reduction: "batchmean" or "none".
    """
    student_logits, teacher_logits = check_logits(student_logits, teacher_logits)
    check_fraction("weight", weight)
    ce = mixup_cross_entropy(student_logits, labels, permuted_labels, lam, reduction)
    return (1 - weight) * ce + weight * kd_loss(student_logits, teacher_logits, temperature, reduction)


def interpolated_logits(
    teacher_logits: Tensor, permuted_teacher_logits: Tensor, lam: float | Tensor, temperature: float = 4.0
) -> Tensor:
    """Logits whose softmax at `temperature` blends the teacher's two clean answers, equation (4.4).

        softmax(result / T) = lam softmax(z_t / T) + (1 - lam) softmax(z_t[permutation] / T)

    STKD's other possible target: the teacher then never sees a virtual image.

    Args:
        teacher_logits, permuted_teacher_logits: (B, C). lam: a number in [0, 1] or a 0-dim tensor.
    """
    check_float_tensor("teacher_logits", teacher_logits)
    check_float_tensor("permuted_teacher_logits", permuted_teacher_logits)
    if teacher_logits.shape != permuted_teacher_logits.shape or teacher_logits.dim() != 2 or len(teacher_logits) == 0:
        raise ValueError(
            f"permuted_teacher_logits has shape {tuple(permuted_teacher_logits.shape)}, teacher_logits "
            f"{tuple(teacher_logits.shape)}; both must be the same (batch, classes), not empty"
        )
    check_same_device("permuted_teacher_logits", permuted_teacher_logits, "teacher_logits", teacher_logits)
    _check_lam(lam, teacher_logits)
    check_positive("temperature", temperature)
    dtype = torch.promote_types(teacher_logits.dtype, torch.float32)
    own = (teacher_logits.to(dtype) / temperature).log_softmax(dim=1)
    partner = (permuted_teacher_logits.to(dtype) / temperature).log_softmax(dim=1)
    log_lam, log_rest = (lam.log(), (1 - lam).log()) if isinstance(lam, Tensor) else (_log(lam), _log(1 - lam))
    return temperature * torch.logaddexp(own + log_lam, partner + log_rest)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _check_lam(lam: float | Tensor, batch: Tensor) -> None:
    if not isinstance(lam, Tensor):
        check_fraction("lam", lam)
        return
    check_float_tensor("lam", lam)
    if lam.dim() != 0:
        raise ValueError(f"lam has shape {tuple(lam.shape)}, wanted a number or a 0-dim tensor: one lam for the batch")
    if lam.device.type != "cpu":  # a single number on the CPU meets tensors on any device
        check_same_device("lam", lam, "the batch", batch)
