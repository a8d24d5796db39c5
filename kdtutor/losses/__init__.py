"""Every loss of the course: pure functions of tensors that import torch and nothing else.

Student first, teacher second, everywhere; the teacher is detached; a scalar comes back.
"""

from .affinity import AFFINITIES, DISCREPANCIES, NORMALIZATIONS, PRESETS, affinity_loss, rkd_angle_loss
from .correlation import cmkd_loss, dist_loss, pearson_correlation, soft_rank, spearman_correlation
from .kernel import class_centers, class_sums, kernel_transfer_loss, nystrom_kernel
from .mixup import interpolated_logits, mixup, mixup_cross_entropy, stkd_loss
from .similarity import sp_loss
from .vanilla import dkd_loss, kd_loss, standardize_logits

__all__ = [
    "AFFINITIES",
    "DISCREPANCIES",
    "NORMALIZATIONS",
    "PRESETS",
    "affinity_loss",
    "class_centers",
    "class_sums",
    "cmkd_loss",
    "dist_loss",
    "dkd_loss",
    "interpolated_logits",
    "kd_loss",
    "kernel_transfer_loss",
    "mixup",
    "mixup_cross_entropy",
    "nystrom_kernel",
    "pearson_correlation",
    "rkd_angle_loss",
    "soft_rank",
    "sp_loss",
    "spearman_correlation",
    "standardize_logits",
    "stkd_loss",
]
