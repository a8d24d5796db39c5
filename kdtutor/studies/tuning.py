"""Losses whose sizes have nothing in common get their weights in one way: by the length of their gradient.

Each is tried with a few ratios of its gradient to cross-entropy's, with two seeds; validation images choose
one, and all seeds are trained with that.
"""

from collections.abc import Callable, Iterator

import torch

from .. import models
from ..data import ImageSet
from ..methods import Method
from ..settings import Settings
from ..train import gradient_norms, make_batch
from .students import SEEDS, memory
from .study import Row
from .summary import chosen

RATIOS = (0.3, 1.0, 3.0)  # length of the loss's own gradient over cross-entropy's, before training
TUNING_SEEDS = (0, 1)


def relative_gradient(method: Method, train: ImageSet, batches: int = 10) -> float:
    """The length of the gradient of a method's own term over cross-entropy's, of an untrained student.

    One epoch is looked at before, for methods that remember it.
    """
    settings = Settings(epochs=1)
    teacher = memory("base", train, settings, method.features)
    student = models.tap(models.build("cnn4k", num_classes=10, in_channels=1, seed=100), method.features).train()
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(100))

    def terms(step: int) -> dict[str, torch.Tensor]:
        batch = make_batch(train, order, step, 0, settings)
        return method(student(batch.images), teacher(batch), batch)

    with torch.no_grad():
        for step in range(len(train) // settings.batch_size):
            terms(step)
    method.end_epoch()
    ratios = []
    for step in range(batches):
        norms = gradient_norms(terms(step), list(student.parameters()))
        ratios.append(float(sum(norms.values()) / norms["ce"]) - 1)
    return sum(ratios) / batches


def trials(nothing: Row, groups: list[Row], rows, choose: Callable[[object], dict]) -> Iterator[Row]:
    """Cross-entropy alone, every group at every ratio with two seeds; once those have rows, the chosen ratio with all.

    Args:
        nothing: the columns of cross-entropy's trials. groups: those of each loss; all have the same columns.
        rows: of the record so far. choose: rows -> what chosen_ratios returns.
    """
    yield from ({**nothing, "ratio": 0.0, "seed": seed} for seed in SEEDS)
    for group in groups:
        yield from ({**group, "ratio": ratio, "seed": seed} for ratio in RATIOS for seed in TUNING_SEEDS)
    if len(rows) >= len(SEEDS) + len(groups) * len(RATIOS) * len(TUNING_SEEDS):
        for values, ratio in choose(rows).items():
            values = values if isinstance(values, tuple) else (values,)
            group = dict(zip(nothing, values, strict=True))
            yield from ({**group, "ratio": ratio, "seed": seed} for seed in SEEDS)


def chosen_ratios(rows, columns: list[str]) -> dict:
    """For each group, the ratio with the best accuracy on validation images over the tuning seeds.

    Args:
        rows: without cross-entropy's. columns: which name a group; see `summary.chosen` for the keys.
    """
    return chosen(rows[rows["seed"].isin(TUNING_SEEDS)], columns, "ratio")
