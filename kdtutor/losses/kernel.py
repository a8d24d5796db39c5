"""Transfer of the full N x N kernel matrix, through its Nystroem factors.

Qian, Li & Hu 2020, arXiv 2009.14416. A mini-batch shows a student only the similarities inside the
batch. Similarities to K landmarks, the class centres, stand for those to everything else, at a cost
linear in N. Notebook 06.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ._checks import (
    check_choice,
    check_count,
    check_features,
    check_flag,
    check_float_tensor,
    check_labels,
    check_positive,
    check_same_device,
    full_precision,
)
from ._rows import divide_or_zero


def class_sums(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sum of the features of each class, (num_classes, D), and how many there were, (num_classes,).

    What class_centers divides; add these up over batches to get the centres of an epoch.
    """
    check_float_tensor("features", features)
    if features.dim() != 2:
        raise ValueError(f"features has shape {tuple(features.shape)}, wanted (samples, width); pool or flatten first")
    check_labels("labels", labels, features)
    check_count("num_classes", num_classes)
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    # A product with the one-hot labels is deterministic on every device, and -1 (no label) counts for no class.
    membership = (labels[:, None] == torch.arange(num_classes, device=labels.device)).to(features.dtype)
    with full_precision(features):
        return membership.T @ features, membership.sum(dim=0)


def class_centers(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean feature of each class, equation (6.4): the landmarks of the paper.

    Args:
        features: (N, D). labels: (N,) integers; -1 marks a sample without a label and counts for no class.
        num_classes: C.

    Returns:
        (C, D). A class without a sample gets a centre of zeros, whose similarities are 0.
    """
    sums, counts = class_sums(features, labels, num_classes)
    return sums / counts.clamp(min=1)[:, None]


def kernel_transfer_loss(
    student_features: Tensor,
    teacher_features: Tensor,
    student_landmarks: Tensor,
    teacher_landmarks: Tensor,
    scale_free: bool = False,
) -> Tensor:
    """Difference of the similarities to the landmarks, which bounds that of the full kernel matrices.

    Equations (6.5) and (6.6), of Qian, Li & Hu 2020, as their code computes it:

        S = F_s M_s^T,  T = F_t M_t^T                       (6.5)
        L_KDA = sum smooth_l1(S, T) / ||T||_F               (6.6)

    L_KDA grows like sqrt(B K), so the published weight, .04, is tied to B = 256 and K = 100, and to
    the size of the teacher's features. The scale-free form, ours, divides S and T by the root mean
    square of T and takes the mean, so a weight keeps its meaning as B, K and the units change.

    Args:
        student_features: (B, D_s) pooled features; the only argument that gets a gradient.
        teacher_features: (B, D_t), detached.
        student_landmarks, teacher_landmarks: (K, D_s) and (K, D_t), detached: class centres of the
            previous epoch in the paper. A row of zeros (an absent class) adds nothing.
        scale_free: see above.

    Returns:
        A scalar; 0 where T is all zero.
    """
    student_features, teacher_features = check_features(student_features, teacher_features)
    check_flag("scale_free", scale_free)
    landmarks = []
    for who, rows, features in (
        ("student", student_landmarks, student_features),
        ("teacher", teacher_landmarks, teacher_features),
    ):
        _check_landmarks(f"{who}_landmarks", rows, f"{who}_features", features)
        landmarks.append(rows.detach().to(features.dtype))
    if len(student_landmarks) != len(teacher_landmarks):
        raise ValueError(
            f"teacher_landmarks has {len(teacher_landmarks)} rows, student_landmarks {len(student_landmarks)}; "
            "row k of both must stand for the same landmark"
        )
    with full_precision(student_features):
        S = student_features @ landmarks[0].T
        T = teacher_features @ landmarks[1].T
        if scale_free:
            size = torch.linalg.matrix_norm(T) / T.numel() ** 0.5
            return F.smooth_l1_loss(divide_or_zero(S, size), divide_or_zero(T, size))
        return divide_or_zero(F.smooth_l1_loss(S, T, reduction="sum"), torch.linalg.matrix_norm(T))


ROWS_AT_ONCE = 2**14  # so that what lies between features and kernel fits a processor's cache


def nystrom_kernel(
    features: Tensor, landmarks: Tensor, kernel: str | Callable = "linear", gamma: float | None = None
) -> tuple[Tensor, Tensor]:
    """The Nystroem factors of the kernel matrix of all features, equation (6.2): K ~ cross core cross^T.

        cross = k(features, landmarks)              (N, K)
        core = k(landmarks, landmarks)^+            (K, K), the pseudo-inverse

    The N x N matrix is never formed: time and memory grow linearly with N.

    Args:
        features: (N, D). landmarks: (K, D); computed in at least float32.
        kernel: "linear" <x, y>, "rbf" exp(-gamma |x - y|^2), or a callable (N, D), (K, D) -> (N, K).
        gamma: for "rbf"; 1 / D when None, as in scikit-learn.
    """
    for name, value in (("features", features), ("landmarks", landmarks)):
        check_float_tensor(name, value)
        if value.dim() != 2:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, wanted (rows, width)")
    _check_landmarks("landmarks", landmarks, "features", features)
    if not callable(kernel):
        check_choice("kernel", kernel, ("linear", "rbf"))
    if gamma is not None:
        if kernel != "rbf":
            raise ValueError(f"gamma is {gamma}, but only kernel 'rbf' uses it, and kernel is {kernel!r}")
        check_positive("gamma", gamma)

    dtype = torch.promote_types(torch.promote_types(features.dtype, landmarks.dtype), torch.float32)
    features, landmarks = features.to(dtype), landmarks.to(dtype)
    if kernel == "linear":
        kernel = _linear
    elif kernel == "rbf":
        gamma = 1 / features.shape[1] if gamma is None else gamma
        kernel = lambda x, y: torch.exp(-gamma * _sqeuclidean(x, y))  # noqa: E731
    with full_precision(features):
        cross = torch.cat([kernel(rows, landmarks) for rows in features.split(ROWS_AT_ONCE)])
        return cross, torch.linalg.pinv(kernel(landmarks, landmarks), hermitian=True)


def _linear(x: Tensor, y: Tensor) -> Tensor:
    return x @ y.T


def _sqeuclidean(x: Tensor, y: Tensor) -> Tensor:
    center = y.mean(dim=0)  # no distance changes, and rounding errors shrink
    x, y = x - center, y - center
    squares_x, squares_y = (torch.linalg.vector_norm(rows, dim=1).square() for rows in (x, y))  # no copy of x
    return (squares_x[:, None] + squares_y[None, :] - 2 * (x @ y.T)).clamp(min=0)


def _check_landmarks(name: str, landmarks: Tensor, features_name: str, features: Tensor) -> None:
    check_float_tensor(name, landmarks)
    check_same_device(name, landmarks, features_name, features)
    if landmarks.dim() != 2 or landmarks.shape[1] != features.shape[1] or len(landmarks) == 0:
        raise ValueError(
            f"{name} has shape {tuple(landmarks.shape)}, wanted (landmarks, {features.shape[1]}): "
            f"at least one, and as wide as {features_name}"
        )
