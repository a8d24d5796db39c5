"""Similarities alone: does a student that never sees a label or a logit learn features that a linear probe reads?"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import models, teachers
from ..data import ImageSet, normalize
from ..figures import intervals
from .students import SEEDS, subset, test, train_student
from .study import Row, Study
from .summary import answer, bars, difference, estimates, table

IMAGES, EPOCHS = 12_000, 10

STUDENTS = {
    "untrained": None,
    "sp alone": "sp(ce_weight=0)",
    "kd alone": "kd(ce_weight=0, weight=1)",
    "ce": "ce",
    "ce and sp": "sp",
}


def _train(trial: Row) -> Row:
    spec, seed = STUDENTS[trial["student"]], trial["seed"]
    if spec is None:
        network = models.build("cnn4k", 10, 1, seed=seed)
    else:
        network = train_student(spec, seed, subset(IMAGES), EPOCHS)[1]
    train, unseen = (embed(network, images, "embedding") for images in (subset(IMAGES), test()))
    seen = test().subset(2000)
    student, teacher = (embed(who, seen, "feature_map") for who in (network, teachers.load_teacher("base")))
    return {
        "probe_top1": probe(train, subset(IMAGES).labels, unseen, test().labels),
        "matrix_correlation": off_diagonal_correlation(student, teacher),
    }


@torch.inference_mode()
def embed(network: nn.Module, images: ImageSet, feature: str) -> Tensor:
    """A network's features of images, in eval mode: (N, D)."""
    tapped = models.tap(network, (feature,)).eval()
    batches = (normalize(batch, images.mean, images.std) for batch in images.images.split(1000))
    return torch.cat([tapped(batch).features[feature].flatten(1) for batch in batches])


def probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Test accuracy of multinomial logistic regression on standardised features, with weight decay 1e-4."""
    train, test = train.clone().double(), test.clone().double()
    mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
    train, test = (train - mean) / std, (test - mean) / std
    classifier = nn.Linear(train.shape[1], int(train_labels.max()) + 1).double()
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    optimizer = torch.optim.LBFGS(classifier.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(classifier(train), train_labels) + 1e-4 * classifier.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return float((classifier(test).argmax(1) == test_labels).double().mean())


def off_diagonal_correlation(one: Tensor, other: Tensor) -> float:
    """Pearson correlation of two networks' row-normalised similarity matrices, the diagonal left out."""
    off = ~torch.eye(len(one), dtype=torch.bool)
    rows = [F.normalize(features @ features.T)[off] for features in (one, other)]
    return float(torch.corrcoef(torch.stack(rows))[0, 1])


def _summarize(rows):
    untrained = rows[rows["student"] == "untrained"]
    found = estimates(rows, "student", untrained, "probe_top1")
    matrix = rows.groupby("student")["matrix_correlation"]
    lines = [
        [name, f"{e.mean:.2f} ± {e.std:.2f}", "" if name == "untrained" else difference(e),
         f"{matrix.mean()[name]:.3f} ± {matrix.std()[name]:.3f}"]
        for name, e in found.items()
    ]  # fmt: skip
    alone, trained = found["sp alone"], {name: e for name, e in found.items() if name != "untrained"}
    return [
        table(["student", "linear probe %", "vs untrained, points", "correlation with the teacher's matrix"], lines),
        f"**Verdict.** {answer(alone, 'higher').capitalize()}: points over the untrained network, without a label or a "
        f"logit seen. Cross-entropy's features are better by {found['ce'].mean - alone.mean:.1f} points, those that KD "
        f"alone made by {found['kd alone'].mean - alone.mean:.1f}.",
    ], {"probe": intervals({"linear probe": bars(trained)}, "points over an untrained student")}


STUDY = Study(
    "similarities",
    "Does a student trained on similarities alone, without logits or labels, learn features that a linear probe reads?",
    lambda rows: [{"student": student, "seed": seed} for student in STUDENTS for seed in SEEDS],
    _train,
    {"images": IMAGES, "epochs": EPOCHS, "student": "cnn4k", "teacher": "base"},
    "Similarities alone",
    "SP: pairwise similarities carry knowledge, and the student need not mimic the teacher's space for it.",
    _summarize,
)
