"""Checks of notebook 00: softmax, KL, Gram matrices, the loop, and an honest first measurement."""

import statistics
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .engine import Result, by_choice, by_comparison, by_rubric
from .points import exercise


def _logits(seed: int, rows: int = 3, classes: int = 5) -> Tensor:
    return 2 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


# --- 1. Recall ---


@exercise(1, "recall: what softmax does not see", points=1)
def check_row_shift(answer: str) -> Result:
    """What happens to a row's softmax when 5 is added to each of its logits?

    a: it gets sharper. b: it gets flatter. c: nothing. d: it depends on the sign of the logits.
    """
    return by_choice(
        answer,
        "c",
        {
            "a": "Sharper is what multiplying does. Write exp(z + 5) as a product: what becomes of the common factor?",
            "b": "Flatter is what dividing by a temperature does. What does adding do to every exp(z)?",
            "d": "exp(z + 5) = exp(5) exp(z) for either sign. What happens to exp(5) in the quotient?",
        },
    )


# --- 2. Softmax with a temperature ---


@exercise(2, "write it: softmax with a temperature", points=2)
def check_softmax(softmax: Callable[[Tensor, float], Tensor]) -> Result:
    """softmax(logits, T): (B, C) logits -> (B, C), each row exp(z / T) divided by its sum. Large logits included."""
    inputs = [(_logits(0), 1.0), (_logits(1), 4.0), (_logits(2, 4, 4), 2.0)]
    mistakes = [
        (lambda z, T: (z / T).softmax(0), "Your columns sum to 1. Each row is one sample: sum over dim=1."),
        (
            lambda z, T: (z / T).flatten().softmax(0).view_as(z),
            "All entries together sum to 1. Sum over dim=1, keepdim=True.",
        ),
        (lambda z, T: (z * T).softmax(1), "Higher T should flatten the answer, yours gets sharper. Divide by T."),
        (lambda z, T: z.softmax(1), "The temperature is not used: divide the logits by it first."),
        (lambda z, T: z.softmax(1) / T, "T divides the probabilities, which then do not sum to 1. Divide the logits."),
        (lambda z, T: (z / T).exp(), "These are the exponentials. Divide each row by its sum."),
        (lambda z, T: (z / T).log_softmax(1), "These are logarithms of probabilities."),
    ]
    result = by_comparison(softmax, lambda z, T: (z / T).softmax(1), inputs, mistakes)
    if result and not torch.isfinite(torch.as_tensor(softmax(torch.tensor([[1000.0, 0.0]]), 1.0))).all():
        return Result(1, 2, "Right for small logits, but exp(1000) overflows. Subtract each row's largest logit first.")
    return result


# --- 3. Kullback-Leibler divergence ---


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(1).mean()


@exercise(3, "write it: the KL divergence of a batch", points=2)
def check_kl(kl: Callable[[Tensor, Tensor], Tensor]) -> Result:
    """kl(p, q): the mean over samples of sum_c p log(p / q), of two (B, C) tensors of probabilities."""
    inputs = [(_logits(seed, rows).softmax(1), _logits(seed + 10, rows).softmax(1)) for seed, rows in ((0, 3), (1, 4))]
    mistakes = [
        (lambda p, q: _kl(q, p), "This is KL(q || p). It is not symmetric: which of the two weighs the logarithm?"),
        (
            lambda p, q: (p * (p / q).log()).mean(),
            "This is too small by the number of classes: sum over classes, mean over samples.",
        ),
        (lambda p, q: (p * (p / q).log()).sum(), "The samples are summed. Take their mean."),
        (lambda p, q: (p * (p / q).log()).sum(1), "One number for each sample. Take their mean."),
        (lambda p, q: -_kl(p, q), "The sign is wrong: a divergence is never negative. log(p / q) or log(q / p)?"),
        (
            lambda p, q: -(p * q.log()).sum(1).mean(),
            "This is the cross-entropy: the teacher's own entropy is not taken off.",
        ),
        (lambda p, q: (p * (p - q)).sum(1).mean(), "The logarithms are missing."),
    ]
    return by_comparison(kl, _kl, inputs, mistakes)


# --- 4. Gram matrix ---


@exercise(4, "write it: a Gram matrix", points=2)
def check_gram(gram: Callable[[Tensor], Tensor]) -> Result:
    """gram(features): (B, channels, H, W) maps -> (B, B), the inner products of the flattened samples."""
    draw = lambda *shape: torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))  # noqa: E731
    inputs = [(draw(3, 2, 4, 5),), (draw(5, 3, 2, 2),)]
    rows = lambda f: f.flatten(1)  # noqa: E731
    mistakes = [
        (lambda f: rows(f).T @ rows(f), "This relates features, (D, D). Which order of the product relates samples?"),
        (
            lambda f: F.normalize(rows(f)) @ F.normalize(rows(f)).T,
            "These are cosines: leave the features' lengths as they are.",
        ),
        (
            lambda f: f.mean((2, 3)) @ f.mean((2, 3)).T,
            "The maps were averaged first. Flatten them: every pixel counts.",
        ),
        (lambda f: torch.cdist(rows(f), rows(f)), "These are distances. Take inner products."),
    ]
    return by_comparison(gram, lambda f: rows(f) @ rows(f).T, inputs, mistakes)


# --- 5. A bug to find: one step of training with a teacher ---


def broken_step(student: nn.Module, teacher: nn.Module, images: Tensor, labels: Tensor, optimizer) -> Tensor:
    """The exercise's step, with three mistakes in it."""
    teacher.train()
    student.eval()
    loss = (student(images) - teacher(images)).square().mean() + F.cross_entropy(student(images), labels)
    loss.backward()
    optimizer.step()
    return loss


@exercise(5, "find the mistakes: one step of training", points=3)
def check_step(step: Callable) -> Result:
    """step(student, teacher, images, labels, optimizer) -> loss: a point for each mended mistake of broken_step."""
    student, teacher = _small_network(0), _small_network(1)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    g = torch.Generator().manual_seed(0)
    images, labels = torch.randn(8, 6, generator=g), torch.randint(3, (8,), generator=g)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            step(student, teacher, images, labels, optimizer)
            once = [p.grad.clone() for p in student.parameters() if p.grad is not None]
            for p in student.parameters():
                p.grad = torch.full_like(p, 1e6)
            step(student, teacher, images, labels, optimizer)
        except NotImplementedError:
            return Result(0, 3, "This function is not written yet.")
        except Exception as error:  # whatever the reader's step raises
            return Result(0, 3, f"The step stops with {type(error).__name__}: {error}.")
    if not once:
        return Result(0, 3, "No gradient reached the student: is backward() called?")
    teacher_kept = not teacher.training and all(
        torch.equal(before[name], v) for name, v in teacher.state_dict().items()
    )
    reset = all(p.grad is None or p.grad.abs().max() < 1e5 for p in student.parameters())
    return by_rubric(
        [
            ("the teacher answers in eval mode, so that its statistics stay as they are", teacher_kept),
            ("the student trains in train mode", student.training),
            ("gradients start from zero in every step", reset),
        ]
    )


def _small_network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


# --- 6. An open experiment: how much does one student differ from the next? ---


@exercise(6, "experiment: how much do students differ?", points=5)
def check_seeds(accuracies: Sequence[float], report: Mapping[str, float]) -> Result:
    """Test accuracies of one recipe, one a seed, and {"mean": ..., "std": ...} as you would publish them."""
    values = [float(a) for a in accuracies]
    said = {name: float(report.get(name, float("nan"))) for name in ("mean", "std")}
    enough = len(values) >= 3
    return by_rubric(
        [
            ("at least three seeds", enough),
            ("accuracies as shares between 0 and 1", bool(values) and all(0 <= a <= 1 for a in values)),
            (
                "seeds that really differ: no two accuracies are equal",
                enough and len(set(values)) == len(values),
            ),
            ("the mean of the accuracies", bool(values) and abs(said["mean"] - statistics.fmean(values)) < 1e-3),
            ("the sample standard deviation (n - 1)", enough and abs(said["std"] - statistics.stdev(values)) < 1e-3),
        ]
    )
