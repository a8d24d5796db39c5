"""Similarity-preserving KD: samples that look alike to the teacher should look alike to the student.

Tung & Mori 2019, arXiv 1907.09682. Notebook 02.
"""

from torch import Tensor

from ._checks import check_features, full_precision
from .affinity import inner, row_l2


def sp_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Squared distance between the two networks' row-normalised similarity matrices.

    Equations (2.1) to (2.3), exact, of Tung & Mori 2019, for one pair of layers. With Q the
    features as (B, D):

        G~ = Q Q^T                          (2.1)
        G[i, :] = G~[i, :] / ||G~[i, :]||_2 (2.2)
        L_SP = ||G_t - G_s||_F^2 / B^2      (2.3)

    The rows of G~ are normalised; the features are not (that is another loss, the cosine Gram).
    Rows are unit vectors, so L_SP <= 4 / B: the published weight, 3000, acts twice as strongly on
    a batch of 64 as on one of 128. One sample gives 0; a dead, all-zero row stays 0.

    Args:
        student_features: (B, ...), usually the last feature map before pooling; any float dtype,
            computed in at least float32 whatever autocast says.
        teacher_features: (B, ...), detached. The widths may differ: no projection is needed.

    Raises:
        TypeError, ValueError: batch sizes, dtypes or devices that do not fit.
    """
    student_features, teacher_features = check_features(student_features, teacher_features)
    with full_precision(student_features):
        G_s = row_l2(inner(student_features))
        G_t = row_l2(inner(teacher_features))
        return (G_t - G_s).square().sum() / G_s.numel()
