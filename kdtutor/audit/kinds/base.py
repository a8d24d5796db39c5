"""What the audit knows of a loss: its definition, the losses it is mistaken for, and how its scale goes wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..inputs import Inputs

Loss = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Known:
    """A loss that somebody may have written in place of the right one."""

    code: str
    is_called: str  # "this is ..."
    loss: Loss
    cause: str
    fix: str
    acceptable: bool = False  # True: a variant that is worth a note, not a mistake
    in_its_own_right: bool = False  # True: a mistake only where another loss was asked for
    scaled_in: str = (
        ""  # the sizes ("BCT") in which it should scale as the definition does: there, a factor is a finding
    )


@dataclass(frozen=True)
class Law:
    """A power of a size by which the loss is off: L = size ** power * definition."""

    size: str
    power: float
    code: str
    cause: str
    fix: str


@dataclass(frozen=True)
class Kind:
    """A loss as it should be: the sum of its parts, each with its weight."""

    name: str
    title: str
    space: str  # what it compares: "logits", "features" or "kernel"
    parts: Mapping[str, Loss]
    weights: Mapping[str, float] = field(default_factory=dict)  # 1 where a part is not named
    laws: tuple[Law, ...] = ()
    others: tuple[Known, ...] = ()
    exact: bool = True  # False: the paper leaves choices open, so a stranger is a note

    def definition(self, inputs: Inputs) -> Tensor:
        return sum(self.weights.get(name, 1.0) * part(inputs) for name, part in self.parts.items())


SAMPLE_LAWS = (
    Law("B", 1, "summed_over_batch", "the samples are summed, not averaged", "divide by the batch size"),
    Law(
        "B",
        -1,
        "batch_divided_twice",
        "the loss is divided by the batch size twice",
        "divide by the batch size once: reduction='batchmean' already does",
    ),
)

TEMPERATURE_LAWS = (
    Law(
        "T",
        -2,
        "t_squared_missing",
        "T ** 2 is missing, so the gradient fades as the temperature rises",
        "multiply the loss by temperature ** 2",
    ),
    Law("T", -1, "t_once", "the loss is multiplied by T, not by T ** 2", "multiply the loss by temperature ** 2"),
    Law("T", 1, "t_cubed", "the loss is multiplied by T ** 3", "multiply the loss by temperature ** 2, once"),
    Law(
        "T", 2, "t_squared_twice", "T ** 2 is applied twice", "multiply the loss by temperature ** 2 in one place only"
    ),
)

CLASS_LAWS = (
    Law(
        "C",
        -1,
        "mean_over_classes",
        "the loss is averaged over the classes as well as over the samples: reduction='mean' instead of 'batchmean'",
        "use reduction='batchmean', or sum over the classes and average over the samples",
    ),
)
