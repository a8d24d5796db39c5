"""What each loss needs from a training step, its published weight, and the state it keeps.

A method turns one step's tensors into named, already weighted terms:

    batch = method.prepare(batch, generator)               # mixup happens here; most methods return it as it is
    terms = method(student_out, teacher_out, batch)        # {"ce": ..., "kd": ...}: add them up and call backward()

Methods are built from text, `build("kd")`, `build("sp(weight=1000)")`, and add up, `build("kd + sp")`.
To add one of your own: subclass Method, write `distill`, and put it into METHODS.
"""

import ast
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from . import losses, papers
from .losses._checks import near_names
from .models import Outputs


@dataclass
class Batch:
    """One step's tensors, on the device. `index` and `view` say which images these are, in which augmentation."""

    images: Tensor  # (B, C, H, W), normalised
    labels: Tensor | None  # (B,), -1 where there is none
    index: Tensor  # (B,)
    view: Tensor  # (B,)
    virtual: bool = False  # the images were made in this step, so nobody can remember an answer to them
    permuted_labels: Tensor | None = None  # mixup's partners
    lam: float | None = None
    permutation: Tensor | None = None
    teacher_images: Tensor | None = None  # what the teacher is asked where it is not the images
    on_host: tuple[Tensor, Tensor] | None = None  # index and view once more, for answers kept in host memory


# --- Weights that change as training goes on; `progress` runs from just above 0 to 1, epoch by epoch ---


@dataclass(frozen=True)
class WarmUp:
    """Rises linearly to `weight` over the first `fraction` of the training."""

    weight: float
    fraction: float

    def __call__(self, progress: float) -> float:
        return self.weight * min(1.0, progress / self.fraction)


@dataclass(frozen=True)
class StartAfter:
    """Nothing for the first `fraction` of the training, then `weight`."""

    weight: float
    fraction: float

    def __call__(self, progress: float) -> float:
        return self.weight if progress > self.fraction else 0.0


Weight = float | Callable[[float], float]


def weight_at(weight: Weight, progress: float) -> float:
    """A weight's value at this point of the training."""
    return weight(progress) if callable(weight) else weight


# --- What all methods share ---


@dataclass
class Method:
    """Cross-entropy with the labels, plus the terms that `distill` returns, each times its weight."""

    name: ClassVar[str]
    paper: ClassVar[papers.Paper]
    exact: ClassVar[bool] = True  # False: a reconstruction, since the paper's text could not be read
    features: ClassVar[tuple[str, ...]] = ()  # which tapped features are compared
    needs_teacher: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False

    ce_weight: Weight = 1.0

    def __post_init__(self):
        self.progress = 1.0
        for field in dataclasses.fields(self):
            if field.name.endswith("weight"):
                value = getattr(self, field.name)
                if isinstance(value, bool) or not (callable(value) or isinstance(value, int | float)):
                    raise TypeError(
                        f"{self.name}: {field.name} must be a number or a function of progress, got {value!r}"
                    )
                if not callable(value) and not 0 <= value < float("inf"):
                    raise ValueError(f"{self.name}: {field.name} must be 0 or greater and finite, got {value}")

    def prepare(self, batch: Batch, generator: Generator) -> Batch:
        return batch

    def distill(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, tuple[Weight, Tensor]]:
        """The method's own terms: name -> (weight, loss)."""
        return {}

    def __call__(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        terms = {}
        ce_weight = weight_at(self.ce_weight, self.progress)
        if batch.labels is not None and ce_weight:
            terms["ce"] = ce_weight * cross_entropy(student.logits, batch)
        for name, (weight, loss) in self.distill(student, teacher, batch).items():
            weight = weight_at(weight, self.progress)
            if weight:
                terms[name] = weight * loss
        return terms

    # --- State: most methods have none ---

    def start_epoch(self, progress: float) -> None:
        self.progress = progress

    def end_epoch(self) -> None:
        pass

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy over the labelled samples, with mixup's two labels where the images were mixed.

    Samples without a label (-1) count for nothing; a batch without a single label gives 0.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = F.cross_entropy(logits, batch.labels, ignore_index=-1, reduction="sum")
    count = (batch.labels >= 0).sum()
    if batch.lam is not None:
        partner = F.cross_entropy(logits, batch.permuted_labels, ignore_index=-1, reduction="sum")
        own = batch.lam * own + (1 - batch.lam) * partner
        count = batch.lam * count + (1 - batch.lam) * (batch.permuted_labels >= 0).sum()
    return own / count.clamp(min=1)


# --- The methods of the five papers ---


@dataclass
class CE(Method):
    """Plain supervised training, what every method is compared with."""

    name = "ce"
    paper = papers.CROSS_ENTROPY
    needs_teacher = False


@dataclass
class KD(Method):
    """Vanilla knowledge distillation; `standardized` z-scores both logits first (then .1 CE + 9 KD, T 2 is usual)."""

    name = "kd"
    paper = papers.KD
    ce_weight: Weight = 0.1
    weight: Weight = 0.9
    temperature: float = 4.0
    standardized: bool = False

    def distill(self, student, teacher, batch):
        z_s, z_t = student.logits, teacher.logits
        if self.standardized:
            z_s, z_t = losses.standardize_logits(z_s), losses.standardize_logits(z_t)
        return {"kd": (self.weight, losses.kd_loss(z_s, z_t, self.temperature))}


@dataclass
class SP(Method):
    """Similarity-preserving KD on the last feature map."""

    name = "sp"
    paper = papers.SP
    features = ("feature_map",)
    weight: Weight = 3000.0

    def distill(self, student, teacher, batch):
        loss = losses.sp_loss(student.features["feature_map"], teacher.features["feature_map"])
        return {"sp": (self.weight, loss)}


@dataclass
class Affinity(Method):
    """One cell of the affinity framework, on embeddings. `options` goes to the cell: tau, gamma, order."""

    name = "affinity"
    paper = papers.AFFINITY
    exact = False
    features = ("embedding",)
    weight: Weight = 10.0  # ours: it and CC's give the term about the share of the gradient that SP's has
    affinity: str | Callable = "cosine"
    normalization: str | Callable = "none"
    discrepancy: str | Callable = "mse"
    options: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        losses.affinity.check_cell(self.affinity, self.normalization, self.discrepancy)

    def distill(self, student, teacher, batch):
        loss = losses.affinity_loss(
            student.features["embedding"],
            teacher.features["embedding"],
            self.affinity,
            self.normalization,
            self.discrepancy,
            **self.options,
        )
        return {self.name: (self.weight, loss)}


@dataclass
class STKD(Method):
    """Similarity transfer on mixup's virtual images.

    `target` is "virtual" (the teacher answers on the virtual image) or "interpolated" (its two clean
    answers are blended, which a remembered teacher can do without being asked again).
    """

    name = "stkd"
    paper = papers.STKD
    exact = False
    ce_weight: Weight = 0.1
    weight: Weight = 0.9
    temperature: float = 4.0
    alpha: float = 1.0
    target: str = "virtual"

    def __post_init__(self):
        super().__post_init__()
        if self.target not in ("virtual", "interpolated"):
            raise ValueError(f"stkd: target is {self.target!r}; choose 'virtual' or 'interpolated'")

    def prepare(self, batch, generator):
        if batch.lam is not None:
            raise ValueError("stkd: the batch is mixed already; combine at most one method that mixes images")
        labels = torch.full_like(batch.index, -1) if batch.labels is None else batch.labels
        mixed = losses.mixup(batch.images, labels, self.alpha, generator)
        return dataclasses.replace(
            batch,
            images=mixed.images,
            permuted_labels=mixed.permuted_labels,
            lam=mixed.lam,
            permutation=mixed.permutation,
            virtual=self.target == "virtual",
            teacher_images=batch.images if self.target == "interpolated" else None,
        )

    def distill(self, student, teacher, batch):
        z_t = teacher.logits
        if self.target == "interpolated":
            z_t = losses.interpolated_logits(z_t, z_t[batch.permutation], batch.lam, self.temperature)
        return {"stkd": (self.weight, losses.kd_loss(student.logits, z_t, self.temperature))}


@dataclass
class CMKD(Method):
    """Correlation matching: Pearson and soft Spearman, weighed sample by sample."""

    name = "cmkd"
    paper = papers.CMKD
    exact = False
    weight: Weight = 2.0
    difficulty: str = "teacher_entropy"
    difficulty_temperature: float = 4.0
    hard_samples_favor: str = "spearman"
    dynamic: bool = True
    regularization_strength: float | None = None

    def distill(self, student, teacher, batch):
        loss = losses.cmkd_loss(
            student.logits,
            teacher.logits,
            self.difficulty,
            self.difficulty_temperature,
            self.hard_samples_favor,
            self.dynamic,
            self.regularization_strength,
        )
        return {"cmkd": (self.weight, loss)}


@dataclass
class Kernel(Method):
    """Full kernel matrix transfer: similarities to the class centres of the epoch before.

    Its state is those centres, and the sums from which this epoch's will be made. There are none
    in the first epoch, and the published schedule leaves the term out for 5 epochs of 120.
    """

    name = "kernel"
    paper = papers.KERNEL
    features = ("embedding",)
    needs_labels = True
    weight: Weight = StartAfter(0.04, fraction=5 / 120)
    scale_free: bool = False

    def __post_init__(self):
        super().__post_init__()
        self.centers: dict[str, Tensor] = {}
        self.sums: dict[str, tuple[Tensor, Tensor]] = {}

    def distill(self, student, teacher, batch):
        if batch.lam is not None:
            raise ValueError("kernel: a mixed image belongs to no class; do not combine kernel with stkd")
        features = {"student": student.features["embedding"], "teacher": teacher.features["embedding"]}
        features = {who: embedding.flatten(1) for who, embedding in features.items()}
        self._accumulate(features, *self.landmark_groups(batch, num_classes=student.logits.shape[1]))
        if not self.centers:
            return {}
        loss = losses.kernel_transfer_loss(
            features["student"], features["teacher"], self.centers["student"], self.centers["teacher"], self.scale_free
        )
        return {"kernel": (self.weight, loss)}

    def landmark_groups(self, batch: Batch, num_classes: int) -> tuple[Tensor, int]:
        """The group of each sample, -1 for none, whose mean is a landmark; and how many there are: the classes."""
        return batch.labels, num_classes

    def _accumulate(self, features: dict[str, Tensor], groups: Tensor, count: int) -> None:
        for who, embedding in features.items():
            sums, counts = losses.class_sums(embedding.detach(), groups, count)
            if who in self.sums:
                sums, counts = sums + self.sums[who][0], counts + self.sums[who][1]
            self.sums[who] = sums, counts

    def end_epoch(self):
        for who, (sums, counts) in self.sums.items():
            new = sums / counts.clamp(min=1)[:, None]
            absent = (counts == 0)[:, None]  # a class that did not come up keeps the centre it had
            self.centers[who] = torch.where(absent, self.centers.get(who, torch.zeros_like(new)), new)
        self.sums = {}

    def state_dict(self):
        return {f"centers.{who}": centers for who, centers in self.centers.items()}

    def load_state_dict(self, state):
        self.centers = {name.removeprefix("centers."): centers for name, centers in state.items()}
        self.sums = {}


# --- Relatives they are judged against ---


@dataclass
class DIST(Method):
    """Pearson correlation of probabilities, between classes and between samples.

    Small students on Fashion-MNIST did best with about a third of the published weight (results/README.md).
    """

    name = "dist"
    paper = papers.DIST
    weight: Weight = 2.0
    temperature: float = 4.0
    beta: float = 1.0
    gamma: float = 1.0

    def distill(self, student, teacher, batch):
        loss = losses.dist_loss(student.logits, teacher.logits, self.temperature, self.beta, self.gamma)
        return {"dist": (self.weight, loss)}


@dataclass
class DKD(Method):
    """Decoupled KD, warmed up over 20 of 240 epochs.

    Of all methods the one whose weight matters most: small students on Fashion-MNIST did best with a tenth of the
    published one, and collapsed at ten times it (results/README.md).
    """

    name = "dkd"
    paper = papers.DKD
    needs_labels = True
    weight: Weight = WarmUp(1.0, fraction=20 / 240)
    alpha: float = 1.0
    beta: float = 8.0
    temperature: float = 4.0

    def distill(self, student, teacher, batch):
        if batch.lam is not None:
            raise ValueError("dkd: a mixed image has no single target class; do not combine dkd with stkd")
        labelled = batch.labels >= 0
        per_sample = losses.dkd_loss(
            student.logits,
            teacher.logits,
            batch.labels.clamp(min=0),
            self.alpha,
            self.beta,
            self.temperature,
            reduction="none",
        )
        loss = per_sample.masked_fill(~labelled, 0).sum() / labelled.sum().clamp(min=1)
        return {"dkd": (self.weight, loss)}


@dataclass
class RKD(Method):
    """Relational KD: distances between pairs and angles in triplets.

    Small students on Fashion-MNIST did best with a tenth of the published weights (results/README.md).
    """

    name = "rkd"
    paper = papers.RKD
    features = ("embedding",)
    distance_weight: Weight = 25.0
    angle_weight: Weight = 50.0

    def distill(self, student, teacher, batch):
        f_s, f_t = student.features["embedding"], teacher.features["embedding"]
        return {
            "rkd_distance": (self.distance_weight, losses.affinity_loss(f_s, f_t, **losses.PRESETS["rkd_distance"])),
            "rkd_angle": (self.angle_weight, losses.rkd_angle_loss(f_s, f_t)),
        }


@dataclass
class PKT(Affinity):
    """Probabilistic knowledge transfer: shifted cosines as probabilities, compared by KL divergence."""

    name = "pkt"
    paper = papers.PKT
    exact = True
    weight: Weight = 30000.0
    affinity: str | Callable = "cosine_shifted"
    normalization: str | Callable = "row_l1"
    discrepancy: str | Callable = "kl"


@dataclass
class CC(Affinity):
    """Correlation congruence: a Gaussian kernel of unit features, as a Taylor series.

    The weight is ours. Small students on Fashion-MNIST did a little better with a tenth of it (results/README.md).
    """

    name = "cc"
    paper = papers.CC
    exact = True
    weight: Weight = 10.0
    affinity: str | Callable = "rbf"
    normalization: str | Callable = "none"
    discrepancy: str | Callable = "mse"


METHODS: dict[str, type[Method]] = {
    method.name: method for method in (CE, KD, SP, Affinity, STKD, CMKD, Kernel, DIST, DKD, RKD, PKT, CC)
}


# --- Several at once ---


class Combined:
    """The sum of several methods: the first one's cross-entropy, and every one's own terms."""

    def __init__(self, methods: list[Method]):
        clean = [method for method in methods if isinstance(method, STKD) and method.target == "interpolated"]
        others = [method.name for method in methods if method.needs_teacher and method not in clean]
        if clean and others:
            raise ValueError(
                "stkd: target is 'interpolated', so the teacher sees clean images and the student mixed ones, which "
                f"{', '.join(others)} cannot compare; use target='virtual', or leave {', '.join(others)} out"
            )
        self.methods = methods
        self.name = "+".join(method.name for method in methods)
        self.exact = all(method.exact for method in methods)
        self.paper = methods[0].paper
        self.features = tuple(dict.fromkeys(name for method in methods for name in method.features))
        self.needs_teacher = any(method.needs_teacher for method in methods)
        self.needs_labels = any(method.needs_labels for method in methods)

    def prepare(self, batch: Batch, generator: Generator) -> Batch:
        for method in self.methods:
            batch = method.prepare(batch, generator)
        return batch

    def __call__(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        terms = {}
        for method in self.methods:
            for name, term in method(student, teacher, batch).items():
                if name != "ce" or method is self.methods[0]:
                    terms[name] = terms[name] + term if name in terms else term
        return terms

    def start_epoch(self, progress: float) -> None:
        for method in self.methods:
            method.start_epoch(progress)

    def end_epoch(self) -> None:
        for method in self.methods:
            method.end_epoch()

    def state_dict(self) -> dict[str, Tensor]:
        return {
            f"{i}.{name}": value for i, method in enumerate(self.methods) for name, value in method.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for i, method in enumerate(self.methods):
            prefix = f"{i}."
            method.load_state_dict(
                {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            )


# --- From text ---


def build(spec: "str | Method | Combined") -> "Method | Combined":
    """A fresh method from text: "kd", "kd(temperature=2)", "kd + sp(weight=1000)". A method passes through.

    Raises:
        ValueError: an unknown method or setting, answered with the near ones; methods that cannot be combined.
        TypeError: neither text nor a method.
    """
    if isinstance(spec, Method | Combined):
        return spec
    if not isinstance(spec, str):
        raise TypeError(f"method must be text such as 'kd + sp', or a Method, got {spec!r}")
    try:
        tree = ast.parse(spec.strip(), mode="eval").body
    except SyntaxError:
        raise ValueError(f"method is {spec!r}, wanted a name, or for instance 'kd(temperature=2) + sp'") from None
    methods = [_build_one(node, spec) for node in _summands(tree)]
    return methods[0] if len(methods) == 1 else Combined(methods)


def _summands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_summands(node.left), *_summands(node.right)]
    return [node]


def _build_one(node: ast.expr, spec: str) -> Method:
    call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
    if not isinstance(call.func, ast.Name) or call.args:
        raise ValueError(f"method is {spec!r}, wanted a name, or for instance 'kd(temperature=2) + sp'")
    name = call.func.id
    if name not in METHODS:
        raise ValueError(f"method is {name!r}, which is not known; {near_names(name, METHODS)}")
    try:
        settings = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except ValueError:
        raise ValueError(f"method is {spec!r}: settings must be plain values, as in '{name}(weight=2.5)'") from None
    known = [field.name for field in dataclasses.fields(METHODS[name])]
    for setting in settings:
        if setting not in known:
            raise ValueError(f"{name} has no setting {setting!r}; {near_names(str(setting), known)}")
    return METHODS[name](**settings)
