"""Full kernel matrix transfer, and what is taken for it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kdtutor import losses

from ..inputs import Inputs
from .base import Kind, Known, Law


def _matrices(x: Inputs) -> tuple[Tensor, Tensor]:
    return x.student @ x.student_landmarks.T, x.teacher @ x.teacher_landmarks.T


def _compared(make_matrices, compare):
    def loss(x: Inputs) -> Tensor:
        S, T = make_matrices(x)
        return compare(S, T)

    return loss


def _summed(S: Tensor, T: Tensor) -> Tensor:
    return F.smooth_l1_loss(S, T, reduction="sum") / torch.linalg.matrix_norm(T)


def _cosines(x: Inputs) -> tuple[Tensor, Tensor]:
    unit = lambda rows: F.normalize(rows, dim=1)  # noqa: E731
    return unit(x.student) @ unit(x.student_landmarks).T, unit(x.teacher) @ unit(x.teacher_landmarks).T


OTHERS = (
    Known(
        "scale_free",
        "the scale-free form",
        lambda x: losses.kernel_transfer_loss(
            x.student, x.teacher, x.student_landmarks, x.teacher_landmarks, scale_free=True
        ),
        "S and T are divided by the root mean square of T, and the mean is taken",
        "nothing to mend, but the published weight .04 does not belong to it; pass scale_free=True to audit",
        acceptable=True,
    ),
    Known(
        "not_divided",
        "the sum of smooth L1 without its denominator",
        _compared(_matrices, lambda S, T: F.smooth_l1_loss(S, T, reduction="sum")),
        "the sum is not divided by the Frobenius norm of the teacher's matrix",
        "divide by ||T||_F",
    ),
    Known(
        "divided_by_student",
        "the sum of smooth L1 over the student's own norm",
        _compared(_matrices, lambda S, T: F.smooth_l1_loss(S, T, reduction="sum") / torch.linalg.matrix_norm(S)),
        "the denominator is the student's norm, which the student can raise to lower the loss",
        "divide by the teacher's ||T||_F",
    ),
    Known(
        "divided_by_spectral_norm",
        "the sum of smooth L1 over the spectral norm",
        _compared(_matrices, lambda S, T: F.smooth_l1_loss(S, T, reduction="sum") / torch.linalg.matrix_norm(T, 2)),
        "the denominator is the largest singular value, not the Frobenius norm",
        "divide by torch.linalg.matrix_norm(T)",
    ),
    Known(
        "squared_error",
        "squared error in the place of smooth L1",
        _compared(_matrices, lambda S, T: F.mse_loss(S, T, reduction="sum") / torch.linalg.matrix_norm(T)),
        "the entries are compared by squared error: a few large similarities rule the loss",
        "use F.smooth_l1_loss(S, T, reduction='sum')",
    ),
    Known(
        "absolute_error",
        "absolute error in the place of smooth L1",
        _compared(_matrices, lambda S, T: F.l1_loss(S, T, reduction="sum") / torch.linalg.matrix_norm(T)),
        "the entries are compared by absolute error",
        "use F.smooth_l1_loss(S, T, reduction='sum')",
    ),
    Known(
        "features_normalized",
        "the same of cosines",
        _compared(_cosines, _summed),
        "features and landmarks are normalised, where the paper takes plain inner products",
        "S = F_s @ M_s.T of the features as they are",
    ),
    Known(
        "features_normalized",
        "the mean smooth L1 of cosines",
        _compared(_cosines, F.smooth_l1_loss),
        "features and landmarks are normalised, where the paper takes plain inner products",
        "S = F_s @ M_s.T of the features as they are",
    ),
    Known(
        "landmarks_rolled",
        "the student's landmarks in another order than the teacher's",
        lambda x: _summed(x.student @ x.student_landmarks.roll(1, 0).T, x.teacher @ x.teacher_landmarks.T),
        "row k of the two sets of landmarks does not stand for the same class",
        "keep both sets in class order",
    ),
)


def make_kernel(scale_free: bool = False) -> Kind:
    def transfer(x: Inputs) -> Tensor:
        return losses.kernel_transfer_loss(x.student, x.teacher, x.student_landmarks, x.teacher_landmarks, scale_free)

    laws = (
        Law(
            "K",
            -1,
            "mean_over_entries",
            "the mean over the B * K entries is taken, not their sum",
            "use reduction='sum' with ||T||_F below, or the scale-free form",
        ),
        Law(
            "B",
            -1,
            "divided_by_batch",
            "the sum is divided by the batch size as well as by ||T||_F",
            "divide by ||T||_F alone",
        ),
    )
    return Kind(
        "kernel",
        "kernel transfer, equation (6.6)" + (", scale-free" if scale_free else ""),
        "kernel",
        {"kernel": transfer},
        laws=laws,
        others=() if scale_free else OTHERS,
    )
