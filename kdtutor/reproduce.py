"""The benchmark that everyone reports, CIFAR-100, beside the numbers that were published for it.

The recipe is settings.CIFAR: 240 epochs, batches of 64, the learning rate .05 divided by ten after epochs 150,
180 and 210, crops and flips, the last epoch.
"""

import dataclasses
from dataclasses import dataclass, field

from .compare import Comparison, Results
from .losses._checks import check_choice
from .models import MODELS
from .settings import CIFAR

# Top-1 in per cent, as Tian et al. 2020 (Contrastive Representation Distillation) measured them, which later papers
# repeat; DIST and logit standardisation as their own papers report.
METHODS = ("ce", "kd", "sp", "cc", "rkd", "pkt", "dist", "kd(weight=9, temperature=2, standardized=True)")
PUBLISHED: dict[str, dict[str, float]] = {
    pair: {"teacher": teacher} | {method: value for method, value in zip(METHODS, values, strict=True) if value}
    for pair, teacher, *values in (
        ("wrn_40_2:wrn_16_2", 75.61, 73.26, 74.92, 73.83, 73.56, 73.35, 74.54, None, 76.11),
        ("wrn_40_2:wrn_40_1", 75.61, 71.98, 73.54, 72.43, 72.21, 72.22, 73.45, 74.43, 74.37),
        ("resnet56:resnet20", 72.34, 69.06, 70.66, 69.67, 69.63, 69.61, 70.34, 71.75, 71.43),
        ("resnet110:resnet20", 74.31, 69.06, 70.67, 70.04, 69.48, 69.25, 70.25, None, 71.48),
        ("resnet110:resnet32", 74.31, 71.14, 73.08, 72.69, 71.48, 71.82, 72.61, None, 74.17),
        ("resnet32x4:resnet8x4", 79.42, 72.50, 73.33, 72.94, 72.97, 71.90, 73.64, 76.31, 76.62),
    )
}


@dataclass(frozen=True)
class Reproduction(Comparison):
    """What `compare` is to train: the teacher once, then every student.

    The defaults are the published recipe; with others the numbers cannot be compared.

    Attributes:
        pair: teacher:student, for instance resnet56:resnet20; any two models, published or not.
        methods: stkd, cmkd and kernel have no published number on these pairs that we know of.
    """

    pair: str = "resnet32x4:resnet8x4"
    teacher: str = field(init=False)
    student: str = field(init=False)
    methods: tuple[str, ...] = ("ce", "kd", "sp", "rkd", "stkd", "cmkd", "kernel")
    data: str = "cifar100"
    subset: int | None = None
    seeds: int = 3
    epochs: int = CIFAR.epochs
    batch_size: int = CIFAR.batch_size
    lr: float = CIFAR.lr
    schedule: str = CIFAR.schedule
    crop_padding: int = CIFAR.crop_padding
    views: int | None = CIFAR.views

    def __post_init__(self):
        teacher, colon, student = self.pair.partition(":")
        if not colon:
            raise ValueError(f"pair is {self.pair!r}, wanted teacher:student, for instance 'resnet56:resnet20'")
        for name in (teacher, student):
            check_choice("pair", name, MODELS)
        object.__setattr__(self, "teacher", teacher)
        object.__setattr__(self, "student", student)
        super().__post_init__()

    @property
    def differs(self) -> list[str]:
        """What keeps these runs from being the published ones."""
        names = ("data", "subset", "epochs", "batch_size", "lr", "schedule", "crop_padding", "views", "flip")
        own = {option.name: option.default for option in dataclasses.fields(self)}
        return [f"{name}={getattr(self, name)!r}" for name in names if getattr(self, name) != own[name]]


def format_published(results: Results) -> str:
    """Our numbers beside the published ones, in per cent."""
    reproduction = results.comparison
    published = PUBLISHED.get(reproduction.pair, {})
    lines = [f"{'':<40} {'ours':>14} {'published':>10} {'difference':>11}"]
    ours = [("teacher", results.teacher["top1"], float("nan"))]
    ours += [(row["method"], row["top1_mean"], row["top1_std"]) for row in results.table.to_dict("records")]
    for name, top1, std in ours:
        spread = f" ± {100 * std:.2f}" if std == std else ""
        known = published.get(name)
        beside = "" if known is None else f" {known:>10.2f} {100 * top1 - known:>+11.2f}"
        lines.append(f"{name:<40} {100 * top1:>7.2f}{spread:<7}{beside}".rstrip())
    if reproduction.differs:
        lines += ["", f"Not the published recipe ({', '.join(reproduction.differs)}): the columns cannot be compared."]
    return "\n".join(lines)
