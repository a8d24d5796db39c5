"""Do the papers' claims hold? Studies on Fashion-MNIST whose records lie in results/studies/.

    kdtutor study sensitivity

Students are compared seed by seed. Weights are chosen on validation images and never on the test set,
the last epoch counts, and every setting that was tried has its rows in the record.
"""

from . import affinity, correlation, landmarks, mixup, regimes, sensitivity, similarities
from .study import Study, read, run

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        sensitivity.STUDY,
        *regimes.STUDIES,
        similarities.STUDY,
        mixup.STUDY,
        correlation.STUDY,
        landmarks.STUDY,
        affinity.STUDY,
    )
}

__all__ = ["STUDIES", "Study", "read", "run"]
